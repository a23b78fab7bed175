"""The machine's table as a picture and as a list, for the docs. Pure."""

from rollout.machine import MEANING, TRANSITIONS


def mermaid() -> str:
    """Draw the table as a Mermaid state diagram: one arrow for each pair of states."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before, after), []).append(event)
    lines = ["stateDiagram-v2"]
    for (came, went), events in arrows.items():
        start = "[*]" if came == "none" else came
        lines.append(f"    {start} --> {went}: {', '.join(events)}")
    ends = sorted(set(TRANSITIONS.values()) - {before for before, _ in TRANSITIONS})
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """Write the events as a Markdown table: what each means, and from where it is legal."""
    lines = ["| event | means | from |", "|---|---|---|"]
    for event, meaning in MEANING.items():
        where = [state for state, of in TRANSITIONS if of == event]
        lines.append(f"| `{event}` | {meaning} | {', '.join(where)} |")
    return "\n".join(lines) + "\n"
