"""Labs in, marks out."""


def check(lab: str, seed: int = 0):
    """Check your copy of a lab from a cell of the notebook, and print what each task earns.

    `lab` is a name such as "lab08" or a path. Checked is the file as it was last saved, in a process of its own.
    """
    import os
    import subprocess
    import sys

    # UTF-8 on both sides of the pipe: the report shows what the student's code gives, in any script.
    command = [sys.executable, "-m", "vlib.grading.cli", "check", str(lab), "--seed", str(seed)]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", env=env)
    print(run.stdout, end="")
