//! What a call of `slat page-table` asks for, checked before anything is run.

use crate::arguments::{Collapse, PageTable, PageTablePlant as Plant};
use crate::failure::Failure;
use crate::formats;
use crate::harness::setting::Setting;
use crate::size;

use super::touch::Layout;

/// All parameters, valid.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) setting: Setting,
    pub(crate) collapse: Collapse,
    pub(crate) plant: Option<Plant>,
}

impl Plan {
    pub(crate) fn new(options: &PageTable) -> Result<Self, Failure> {
        let mut setting = Setting::new(&options.common, options.bytes, options.verify)?;
        if options.bytes.is_none() {
            let pieces = setting.formats.iter().map(|format| piece(&setting, format));
            setting.bytes = pieces.collect::<Result<Vec<_>, _>>()?.into_iter().fold(setting.bytes, u64::max);
        }
        setting.check(|_| setting.bytes, false)?;
        let plan = Self { setting, collapse: options.collapse, plant: options.plant };
        plan.setting.formats.iter().try_for_each(|format| plan.check_pieces(format))?;
        Ok(plan)
    }

    /// The memory under test, which all vCPUs share.
    pub(crate) fn layout(&self, format: &str) -> Result<Layout, Failure> {
        let memory = self.setting.memory(format, self.setting.bytes)?;
        Ok(Layout { memory, piece: piece(&self.setting, format)?, page: formats::geometry(format)?.page_size() })
    }

    fn check_pieces(&self, format: &str) -> Result<(), Failure> {
        let (piece, source) = (piece(&self.setting, format)?, self.setting.source);
        let not_whole = |option, what: String| {
            let piece = size::show(piece);
            let what = format!("{what} is not a multiple of {piece}, by which {format} maps {source} (see -s)");
            Err(Failure::option(option, what))
        };
        if !self.setting.bytes.is_multiple_of(piece) {
            return not_whole("-b", size::show(self.setting.bytes));
        }
        match self.setting.offset.filter(|offset| !offset.is_multiple_of(piece)) {
            Some(offset) => not_whole("-p", format!("{offset:#x}")),
            None => Ok(()),
        }
    }
}

/// Bytes in a piece of the memory: the leaf that maps a page of what backs it.
fn piece(setting: &Setting, format: &str) -> Result<u64, Failure> {
    let geometry = formats::geometry(format)?;
    Ok(geometry.size(setting.source.largest_leaf().min(geometry.largest_leaf())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::arguments::tests::command_line;
    use crate::arguments::{Arguments, Command};

    proptest! {
        /// What a plan says can be run; what cannot be has a reason.
        #[test]
        fn any_command_line_is_a_plan_or_refused(line in command_line("page-table")) {
            let Ok(Arguments { command: Command::PageTable(options) }) = Arguments::try_parse_from(line) else { return Ok(()) };
            let plan = Plan::new(&options);
            prop_assert!(plan.as_ref().err().is_none_or(|failure| !failure.to_string().is_empty()));
            let Ok(plan) = plan else { return Ok(()) };
            for format in &plan.setting.formats {
                let layout = plan.layout(format).unwrap();
                prop_assert!(layout.memory.is_aligned(layout.piece) && layout.memory.len() == plan.setting.bytes);
            }
        }
    }
}
