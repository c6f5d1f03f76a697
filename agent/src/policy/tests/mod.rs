mod errors;
mod files;
mod fuzz;
mod rule_errors;
mod stock;
mod tables;
mod verdicts;
mod words;
