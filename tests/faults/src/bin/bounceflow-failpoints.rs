//! The `bounceflow` binary with its failpoints armed by `FAILPOINTS`: the program under test of the fault matrix.

fn main() -> std::process::ExitCode {
    bounceflow::failpoint::main()
}
