# Short names for what is done every day. Nothing needs `just`: each line can be typed as it stands.

# What there is
_list:
    @just --list --unsorted

# Three pretend clouds, and the real proxy in front of them
demo *args:
    cargo run --release -- demo {{args}}

# Everything that decides whether a change is good (`just test --quick`: without docs and deny)
test *args:
    tests/run {{args}}

# Formatting and lints alone
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Every problem of the examples and of the starter configuration
examples:
    cargo build
    for file in examples/*.yaml deploy/portolan.yaml; do target/debug/portolan check --config "$file" || exit 1; done

# What things cost
bench *args:
    cargo bench --workspace {{args}}

# The documentation of the code, in a browser
docs:
    cargo doc --workspace --no-deps --open

# Write golden files anew; then read what changed
golden:
    UPDATE_GOLDEN=1 cargo test -p portolan-config
    git status --short
