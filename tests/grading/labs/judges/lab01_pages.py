"""Judge the open task of lab 1."""


def evicts(printed, seed):
    """Half the points for each request that is answered by the right number of different pages."""
    rooms = (3, 5)
    if len(printed) != 2:
        return 0, f"{len(printed)} answers for 2 requests"
    good = 0
    for answer, room in zip(printed, rooms, strict=True):
        if isinstance(answer, list) and all(type(p) is int and 0 <= p < 20 for p in answer):
            good += len(set(answer)) == len(answer) == room
    return good / 2, f"{good} of 2 requests are answered"
