//! Starts the command line with room for what hostile broker messages do to a stack.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use std::io::{Write as _, stderr};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// The AMQP client reads header tables recursively, on threads of its own: one nested thousands of levels deep
/// overflows a stack of the usual size and takes the process with it. Only touched pages cost memory.
const STACK_BYTES: usize = 512 * 1024 * 1024;
const STACK_VARIABLE: &str = "RUST_MIN_STACK";

fn main() -> ExitCode {
    if !has_large_stacks() {
        // The standard library reads the variable once, before the first thread: only a fresh process sees it.
        if let Ok(program) = std::env::current_exe() {
            let mut again = Command::new(program);
            again.args(std::env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES.to_string());
            let error = again.exec();
            let _ = writeln!(stderr(), "warning: cannot start with large stacks: {error}");
        }
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        let _ = writeln!(stderr(), "error: another crypto provider is installed already");
        return ExitCode::FAILURE;
    }
    penr_webhooks::cli::main()
}

fn has_large_stacks() -> bool {
    let bytes = std::env::var(STACK_VARIABLE).ok().and_then(|text| text.parse::<usize>().ok());
    bytes.is_some_and(|bytes| bytes >= STACK_BYTES)
}
