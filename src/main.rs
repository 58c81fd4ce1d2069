//! The program `penr-webhooks`: the command line, with jemalloc as allocator.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    penr_webhooks::cli::main()
}
