//! What a call of `slat page-table` asks for, checked before anything is run.

use crate::arguments::{Collapse, PageTable, PageTablePlant as Plant};
use crate::failure::Failure;
use crate::formats;
use crate::harness::PAGE;
use crate::harness::setting::Setting;
use crate::size;

use super::stages::Run;
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
        let setting = Setting::new(&options.common, options.bytes, options.verify)?;
        setting.check(|_| setting.bytes, false)?;
        let plan = Self { setting, collapse: options.collapse, plant: options.plant };
        plan.check_pieces()?;
        Ok(plan)
    }

    /// Bytes in a piece of the memory: a page of what backs it.
    pub(crate) fn piece(&self) -> u64 {
        self.setting.source.page_size()
    }

    /// The memory under test, which all vCPUs share.
    pub(crate) fn layout(&self, format: &str) -> Result<Layout, Failure> {
        Ok(Layout { memory: self.setting.memory(format, self.setting.bytes)?, piece: self.piece() })
    }

    /// How many blocks could map the memory, and how many do after `adjust`.
    pub(crate) fn blocks(&self, run: &Run) -> (u64, u64) {
        if self.piece() == PAGE {
            return (0, 0);
        }
        (self.setting.bytes / self.piece(), run.measured.adjust.leaves.of(self.piece()))
    }

    fn check_pieces(&self) -> Result<(), Failure> {
        for format in &self.setting.formats {
            let page = formats::geometry(format)?.page_size();
            if page != PAGE {
                let page = size::show(page);
                let what =
                    format!("{format} has pages of {page}; this test counts blocks of pages of 4K (see dirty-log)");
                return Err(Failure::option("--format", what));
            }
        }
        let (piece, source) = (self.piece(), self.setting.source);
        let not_whole = |option, what: String| {
            let piece = size::show(piece);
            Err(Failure::option(option, format!("{what} is not a multiple of {piece}, the page of {source} (see -s)")))
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
