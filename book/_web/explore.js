// Live figures without a kernel: show the picture that belongs to the position of the controls.
// A classic script, because a module does not load from disk.
"use strict";
for (const figure of document.querySelectorAll("figure.live-figure")) {
  const box = figure.querySelector(".picture");
  const controls = [...figure.querySelectorAll("input, select")];
  if (controls.length === 0) continue; // a still picture
  let data = null;
  const show = () => {
    data ??= JSON.parse(figure.querySelector("script").textContent);
    let index = 0;
    controls.forEach((control, at) => {
      const label = data.labels[at][control.value];
      index = index * data.labels[at].length + Number(control.value);
      if (control.type === "range") {
        control.setAttribute("aria-valuetext", label);
        control.nextElementSibling.textContent = label;
      }
    });
    const before = data.pictures.indexOf(null); // the picture in view is not kept a second time
    if (index === before) return;
    const said = box.firstElementChild.getAttribute("aria-label");
    data.pictures[before] = box.innerHTML;
    box.innerHTML = data.pictures[index];
    data.pictures[index] = null;
    const say = box.firstElementChild.getAttribute("aria-label");
    if (say !== said) figure.querySelector(".said").textContent = say;
  };
  figure.addEventListener("input", show);
  figure.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}
