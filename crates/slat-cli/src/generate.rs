//! What is generated from the command line's own description: completions for shells, and manual pages.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::arguments::Arguments;
use crate::failure::{Failure, engine};
use crate::output;

/// Prints what makes `shell` complete slat's commands and options.
pub(crate) fn completions(shell: Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "slat", &mut text);
    output::raw(&text);
}

/// Prints the manual page of slat, or of one of its commands.
pub(crate) fn man(command: Option<&str>) -> Result<(), Failure> {
    let mut slat = Arguments::command();
    slat.build();
    let page = match command {
        None => slat,
        Some(name) => {
            let names: Vec<_> = slat.get_subcommands().map(|known| known.get_name().to_owned()).collect();
            slat.find_subcommand(name).cloned().ok_or_else(|| {
                Failure::Input(format!("error: there is no command {name:?}; there are: {}", names.join(", ")))
            })?
        }
    };
    let mut text = Vec::new();
    let source = concat!("slat ", env!("CARGO_PKG_VERSION"));
    Man::new(page).source(source).render(&mut text).map_err(engine)?;
    output::raw(&text);
    Ok(())
}
