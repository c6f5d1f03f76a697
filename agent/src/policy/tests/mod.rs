mod errors;
mod files;
mod fuzz;
mod stock;
mod tables;
mod verdicts;
mod words;
