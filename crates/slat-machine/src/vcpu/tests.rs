use std::collections::VecDeque;
use std::sync::atomic::Ordering::Release;

use slat::host::Tlb;

use super::*;
use crate::program::Order;
use crate::testing::*;

/// An engine that follows a script; when it says `Mapped`, it maps.
struct Script<'b> {
    bench: &'b Bench,
    outcomes: VecDeque<Outcome>,
    topped_up: Vec<usize>,
}

const MAPPED: Outcome = Outcome::Mapped { level: PAGE, writable: true };

impl FaultEntry for Script<'_> {
    fn fault(&mut self, gpa: Gpa, _: Access) -> Outcome {
        let outcome = self.outcomes.pop_front().unwrap_or(MAPPED);
        if outcome == MAPPED {
            self.bench.map_page(gpa.align_down(4096).get(), gpa.align_down(4096).get(), OPEN);
        }
        outcome
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.topped_up.push(tables);
        if tables > 3 { Err(OutOfMemory) } else { Ok(()) }
    }
}

fn runner<'b>(bench: &'b Bench, outcomes: &[Outcome]) -> Runner<'b, Script<'b>> {
    let outcomes = outcomes.iter().copied().collect();
    Runner::new(&bench.machine, VcpuId(0), bench.root, Script { bench, outcomes, topped_up: Vec::new() })
}

#[test]
fn the_guest_goes_on_after_every_outcome_that_lets_it() {
    let bench = Bench::new();
    let level = PAGE;
    let outcomes = [
        Outcome::Retry,
        Outcome::NeedTables(2),
        Outcome::Spurious,
        Outcome::Relaxed { level },
        Outcome::Accessed { level },
    ];
    let mut runner = runner(&bench, &outcomes);
    runner.store(gpa(0x5008), 3).unwrap();
    assert_eq!(runner.load(gpa(0x5008)), Ok(3));
    let counts = runner.counts();
    assert_eq!((counts.faults, counts.accesses), (6, 2));
    let each = [counts.mapped, counts.relaxed, counts.accessed, counts.spurious, counts.retries, counts.needed_tables];
    assert_eq!(each, [1; 6]);
    assert_eq!(
        runner.into_entry().topped_up,
        [CARRIED, 2],
        "more than asked for, and if that fails what was asked for"
    );
}

#[test]
fn the_guest_stops_at_every_other_outcome() {
    let bench = Bench::new();
    let at = gpa(0x5000);
    let cases = [
        (Outcome::NoSlot, GuestError::NoSlot(at)),
        (Outcome::Mmio, GuestError::Mmio(at)),
        (Outcome::Denied, GuestError::Denied(at, Access::Write)),
        (Outcome::OutOfRange, GuestError::OutOfRange(at)),
        (Outcome::Gone, GuestError::Gone),
        (Outcome::NeedTables(4), GuestError::OutOfTables(4)),
    ];
    for (outcome, error) in cases {
        assert_eq!(runner(&bench, &[outcome]).store(at, 1), Err(error));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn an_engine_that_says_go_on_when_the_guest_cannot_is_found_out() {
    let bench = Bench::new();
    let mut runner = runner(&bench, &[Outcome::Spurious; PATIENCE as usize]);
    assert!(matches!(runner.load(gpa(0x5000)), Err(GuestError::Stuck { faults: PATIENCE, .. })));
}

#[test]
fn breaking_the_architectures_rules_is_an_error_of_its_own() {
    let bench = Bench::new();
    bench.entry(0x5000, PAGE).store(0x7000 | OPEN | TABLE_OR_PAGE, Release);
    let abort = GuestError::ExternalAbort { gpa: gpa(0x5000), hpa: Hpa::new(0x7000) };
    assert_eq!(runner(&bench, &[]).load(gpa(0x5000)), Err(abort));

    let bench = Bench::ept(false);
    // Write-only is what no processor takes.
    bench.map_ept_page(0x5000, 0, EPT_OPEN & !1);
    let fault = Fault::at(PAGE, crate::walk::FaultKind::Misconfiguration);
    let error = runner(&bench, &[]).store(gpa(0x5000), 1).unwrap_err();
    assert_eq!(error, GuestError::Misconfiguration { gpa: gpa(0x5000), fault });
    assert!(error.to_string().contains("Misconfiguration"));
}

#[test]
fn a_vcpu_that_faults_is_out_of_its_guest_when_the_engine_is_called() {
    let bench = Bench::ept(false);
    struct Flusher<'b>(&'b Bench);
    impl FaultEntry for Flusher<'_> {
        fn fault(&mut self, gpa: Gpa, _: Access) -> Outcome {
            // Waits for every core that is in its guest.
            self.0.machine.wait(self.0.machine.flush(slat::host::Flush::All));
            self.0.map_ept_page(gpa.get(), 0, EPT_OPEN);
            MAPPED
        }

        fn top_up(&mut self, _: usize) -> Result<(), OutOfMemory> {
            Ok(())
        }
    }
    let mut runner = Runner::new(&bench.machine, VcpuId(0), bench.root, Flusher(&bench));
    runner.remain_in_guest(true);
    for at in [0x5000, 0x6000] {
        runner.store(gpa(at), at).unwrap();
    }
    assert_eq!(runner.counts().mapped, 2);
    assert_eq!(bench.machine.requests().sent, 0);
}

#[test]
fn a_program_is_executed_and_can_be_stopped() {
    let bench = Bench::new();
    let program = Program {
        base: gpa(0),
        page_size: 4096,
        vcpus: 1,
        bytes_per_vcpu: 64 * 4096,
        overlap: false,
        order: Order::Random,
        write_percent: 50,
        seed: 5,
    };
    let mut runner = runner(&bench, &[]);
    let pass = runner.execute(&program, 0, 0, None).unwrap();
    assert_eq!((pass.reads + pass.writes, pass.stopped), (64, false));
    assert!(pass.reads > 0 && pass.writes > 0);

    runner.execute(&program.populate(), 0, 7, None).unwrap();
    for step in program.populate().pass(0, 7) {
        assert_eq!(step.action, Action::Write(bench.machine.memory().load(step.gpa.get())));
    }
    let stopped = runner.execute(&program, 0, 1, Some(&AtomicBool::new(true))).unwrap();
    assert_eq!(stopped, Pass { reads: 0, writes: 0, stopped: true });
}
