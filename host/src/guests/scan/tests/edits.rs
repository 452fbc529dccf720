//! Every order of the steps of an edit.

use proptest::prelude::*;

use super::*;

/// A policy that must apply at every moment, of each kind.
const DENIES: [&str; 5] = [
    "deny = ['0.0.0.0/0']",
    "allow = ['192.0.2.0/24']",
    "rate = '1/h'",
    "routes = [{ path = '/a', deny = ['10.0.0.0/8'] }]",
    "routes = []",
];

/// A manifest that denies, in pieces of which only the whole denies.
fn pieces(deny: &str, number: usize) -> [String; 3] {
    ["priority = 'low'\n".into(), format!("{deny}\n"), format!("[env]\nN = '{number}'\n")]
}

/// The steps of an edit. A file that is renamed into place is complete.
#[derive(Clone, Copy, Debug)]
enum Step {
    Unlink,
    Create,
    Append,
    Rename,
    UnlinkComponent,
    Component(u8),
    RenameComponent(u8),
    Wait(u64),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Unlink),
        Just(Step::Create),
        Just(Step::Append),
        Just(Step::Rename),
        Just(Step::UnlinkComponent),
        (0..3u8).prop_map(Step::Component),
        (0..3u8).prop_map(Step::RenameComponent),
        (0..240u64).prop_map(Step::Wait),
        (0..5000u64).prop_map(Step::Wait),
        Just(Step::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// From one manifest that denies to another, through any steps in any order and with any number of scans between
    /// them: what both deny is denied at every moment.
    #[test]
    fn no_intermediate_step_is_served(
        deny in prop::sample::select(&DENIES[..]),
        version: bool,
        events: bool,
        looks: bool,
        steps in prop::collection::vec(step(), 1..24),
    ) {
        // For a version, its service's manifest denies, which must not be lost either.
        let name = if version { "a@2" } else { "a" };
        let whole = pieces(deny, 0).concat();
        let files: [(&str, &[u8]); 4] = [
            ("a.wasm", &component(0)),
            ("a.toml", whole.as_bytes()),
            ("a@2.wasm", &component(0)),
            ("b.wasm", &component(0)),
        ];
        let mut world = World::new(&files, events);
        let before = world.live("a").unwrap().manifest;
        let (mut written, mut number, mut last) = (3, 0, world.now);
        let file = format!("{name}.wasm");
        // A service without its component is gone soon with its versions, and may return without a manifest.
        let mut gone = false;
        for step in steps {
            let acts = match step {
                // A file that no scan has seen cannot be distinguished from one that never existed.
                Step::Unlink => {
                    let there = world.at("a.toml").exists();
                    world.look();
                    world.unlink("a.toml");
                    there
                }
                Step::Create => {
                    (written, number) = (0, number + 1);
                    world.write("a.toml", "");
                    true
                }
                Step::Append if world.at("a.toml").exists() && written < 3 => {
                    world.append("a.toml", &pieces(deny, number)[written]);
                    written += 1;
                    true
                }
                Step::Append => false,
                Step::Rename => {
                    (written, number) = (3, number + 1);
                    world.rename("a.toml", pieces(deny, number).concat());
                    true
                }
                // A change of a version does not tell that its service is being edited.
                Step::UnlinkComponent => {
                    let there = world.at(&file).exists();
                    world.look();
                    world.unlink(&file);
                    there && !version
                }
                Step::Component(number) => {
                    world.write(&file, component(number));
                    !version
                }
                Step::RenameComponent(number) => {
                    world.rename(&file, component(number));
                    !version
                }
                // The time between two steps is too short for one of them to count as finished.
                Step::Wait(ms) => {
                    let most = if gone { SETTLE / 2 } else { OPENS - Duration::from_millis(1) };
                    let room = (last + most).saturating_duration_since(world.now);
                    world.pass(Duration::from_millis(ms).min(room));
                    false
                }
                Step::Look => {
                    world.look();
                    false
                }
            };
            if acts {
                last = world.now;
            }
            gone |= !world.at("a.wasm").exists();
            if acts && looks {
                world.look();
            }
            for spec in [world.live("a"), world.live("a@2")].into_iter().flatten() {
                prop_assert_eq!(&spec.manifest.policies, &before.policies, "{} after {:?}", spec.name, step);
                prop_assert!(spec.name != "a" || spec.manifest.routes == before.routes, "after {:?}", step);
            }
        }
        // The edit is finished and takes effect.
        world.write("a.wasm", component(0));
        world.write("a.toml", pieces(deny, 99).concat());
        world.pass(OPENS);
        prop_assert_eq!(world.said("a"), Some("99".into()));
        prop_assert_eq!(world.live("a").unwrap().manifest.policies, before.policies);
        prop_assert_eq!(world.refused(), Vec::<String>::new());
    }
}
