//! The `bounceflow` binary.

fn main() -> std::process::ExitCode {
    bounceflow::cli::main()
}
