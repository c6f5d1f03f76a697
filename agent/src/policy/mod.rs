//! Policy: file, validation, compilation.
