//! Every key, with what it does.

/// What is shown for `?`.
pub(super) const KEYS: [(&str, &str); 14] = [
    ("q, Ctrl-C", "leave"),
    ("?", "this help; any key closes it"),
    ("Tab", "the next pane"),
    ("Up, Down, j, k", "move in the pane"),
    ("Home, End, g, G", "the first, the last"),
    ("Enter", "only this agent; again: all of them"),
    ("a", "allow the selected question once"),
    ("r", "allow it until its run ends"),
    ("h", "allow it for an hour"),
    ("A", "allow it always"),
    ("d", "deny it once"),
    ("D", "deny it always"),
    ("b", "when answering: this name, its port, its domain"),
    ("y, n", "confirm the answer, or not"),
];
