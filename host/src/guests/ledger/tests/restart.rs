//! Any sequence of directory states has the result of a restart.

use proptest::prelude::*;

use super::*;

/// What a directory holds for one name: nothing, garbage, a manifest alone, one that disables the service, one that is
/// changing, or a version with a manifest. Odd versions do not compile.
#[derive(Clone, Copy, Debug)]
enum OnDisk {
    Nothing,
    Rubbish,
    Orphan,
    Disabled,
    Changing,
    Version(u8, u8),
}

fn state(name: &str, on_disk: OnDisk) -> Option<(String, ScannedService)> {
    match on_disk {
        OnDisk::Nothing => None,
        OnDisk::Rubbish => Some(bad(name, true)),
        OnDisk::Orphan => Some(orphan(name)),
        OnDisk::Disabled => Some((name.into(), found(FileState::Disabled, true))),
        OnDisk::Changing => Some((name.into(), found(FileState::Changing, false))),
        OnDisk::Version(version, manifest) => {
            Some((name.into(), found(FileState::Ready(spec(name, version, manifest)), true)))
        }
    }
}

fn compile(spec: &GuestSpec) -> Result<(Digest, String), Refusal> {
    let odd = [1, 3].map(|version| Digest::of(&[version]));
    match odd.contains(&spec.digest) {
        true => Err(Refusal::new(&spec.name, "it does not compile", "mend it")),
        false => Ok((spec.digest, format!("{:?}", spec.manifest))),
    }
}

fn served(ledger: &Ledger<(Digest, String)>, refused: bool) -> Vec<String> {
    let names = ledger.services.iter().filter(|(_, service)| service.refused.is_some() == refused);
    names.filter_map(|(name, service)| Some(format!("{name}: {:?}", service.live.as_ref()?.1))).collect()
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    /// Any sequence of directory states, with compilations that end at any time and in any order, has the result of a
    /// restart, plus the last good versions of refused files.
    #[test]
    fn the_result_is_that_of_a_restart(
        states in prop::collection::vec(
            prop::array::uniform3(prop_oneof![
                Just(OnDisk::Nothing),
                Just(OnDisk::Rubbish),
                Just(OnDisk::Orphan),
                Just(OnDisk::Disabled),
                Just(OnDisk::Changing),
                (0..4u8, 0..2u8).prop_map(|(version, manifest)| OnDisk::Version(version, manifest)),
            ]),
            1..12,
        ),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let mut now = Instant::now();
        let (mut ledger, mut pending) = (Ledger::<(Digest, String)>::default(), Vec::new());
        let look = |on_disk: &[OnDisk; 3]| NAMES.iter().zip(on_disk).filter_map(|(name, on)| state(name, *on)).collect();
        let mut picks = picks.into_iter();
        for on_disk in &states {
            pending.extend(ledger.see(look(on_disk), now).0);
            now += GONE / 3;
            // After about every second scan a compilation ends, not always the one that began first.
            if let Some(pick) = picks.next() && !pending.is_empty() && pick.index(2) == 0 {
                let spec: GuestSpec = pending.swap_remove(pick.index(pending.len()));
                let result = compile(&spec);
                ledger.compiled(spec, result);
            }
        }
        let last = &states.last().unwrap().map(|on| if matches!(on, OnDisk::Changing) { OnDisk::Nothing } else { on });
        let finish = |ledger: &mut Ledger<(Digest, String)>, mut pending: Vec<GuestSpec>, mut now: Instant| {
            for _ in 0..3 {
                for spec in std::mem::take(&mut pending) {
                    let result = compile(&spec);
                    ledger.compiled(spec, result);
                }
                now += GONE;
                pending = ledger.see(look(last), now).0;
            }
            assert!(pending.is_empty() && ledger.is_settled() && ledger.next_look().is_none());
        };
        finish(&mut ledger, pending, now);
        let mut fresh = Ledger::default();
        let begun = fresh.see(look(last), now).0;
        finish(&mut fresh, begun, now);
        let on_disk = NAMES.iter().zip(last.iter()).filter(|(_, on)| !matches!(on, OnDisk::Nothing)).map(|(name, _)| *name);
        prop_assert!(ledger.names().eq(on_disk.clone()) && fresh.names().eq(on_disk));
        prop_assert_eq!(served(&ledger, false), served(&fresh, false));
        prop_assert_eq!(ledger.refusals(), fresh.refusals());
        prop_assert!(served(&fresh, true).is_empty());
    }
}
