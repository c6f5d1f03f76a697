//! Programs that are caught when they are executed.
