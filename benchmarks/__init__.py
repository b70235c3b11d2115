"""How fast, beside the Rust implementation: `python -m benchmarks` asks all questions, `python -m benchmarks NAME` one."""
