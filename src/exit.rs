//! What the command's exit status says. Wrong usage is 2, and said by the parser of the arguments
//! itself.

use std::process::ExitCode;

/// Done.
pub(crate) const DONE: ExitCode = ExitCode::SUCCESS;

/// It could not be done, or `check` found errors.
pub(crate) const FAILED: ExitCode = ExitCode::FAILURE;
