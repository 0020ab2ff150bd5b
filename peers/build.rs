//! Notes the compiler, which figures depend on.

use std::process::Command;

fn main() {
    let compiler = std::env::var_os("RUSTC").expect("cargo names the compiler");
    let answer = Command::new(compiler).arg("--version").output().expect("the compiler runs");
    println!("cargo::rustc-env=SLAT_PEERS_RUSTC={}", String::from_utf8_lossy(&answer.stdout).trim());
    println!("cargo::rerun-if-changed=build.rs");
}
