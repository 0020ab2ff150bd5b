//! Tells the linker where the machine wants the hypervisor.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-arg-bins=-T{root}/link.ld");
    println!("cargo::rerun-if-changed=link.ld");
}
