"""Always three victims, whatever the room."""
# expect: evict=2/4


def victims(pages, room):
    return pages[:3]
