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
    Compiles(Compiles),
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
        prop::sample::select(&[Compiles::AtOnce, Compiles::Fails, Compiles::Long][..]).prop_map(Step::Compiles),
        (0..240u64).prop_map(Step::Wait),
        (0..5000u64).prop_map(Step::Wait),
        Just(Step::Look),
    ]
}

/// An edit of the manifest of `a`, in any steps.
struct Edit {
    deny: &'static str,
    /// Whether the steps at a component are at that of a version.
    version: bool,
    /// The number of pieces that are written, and of which manifest.
    written: usize,
    number: usize,
    /// When the last step was made that tells of the edit.
    last: Instant,
    /// A service without its component is gone soon with its versions, and may return without a manifest.
    gone: bool,
}

impl Edit {
    /// Makes a step. Returns whether that tells that the service is being edited.
    fn make(&mut self, step: Step, world: &mut World) -> bool {
        let file = if self.version { "a@2.wasm" } else { "a.wasm" };
        match step {
            // A file that no scan has seen cannot be distinguished from one that never existed.
            Step::Unlink => {
                let there = world.at("a.toml").exists();
                world.look();
                world.unlink("a.toml");
                there
            }
            Step::Create => {
                (self.written, self.number) = (0, self.number + 1);
                world.write("a.toml", "");
                true
            }
            Step::Append if world.at("a.toml").exists() && self.written < 3 => {
                world.append("a.toml", &pieces(self.deny, self.number)[self.written]);
                self.written += 1;
                true
            }
            Step::Append => false,
            Step::Rename => {
                (self.written, self.number) = (3, self.number + 1);
                world.rename("a.toml", pieces(self.deny, self.number).concat());
                true
            }
            // A change of a version does not tell that its service is being edited.
            Step::UnlinkComponent => {
                let there = world.at(file).exists();
                world.look();
                world.unlink(file);
                there && !self.version
            }
            Step::Component(number) => {
                world.write(file, component(number));
                !self.version
            }
            Step::RenameComponent(number) => {
                world.rename(file, component(number));
                !self.version
            }
            Step::Compiles(compiles) => {
                world.compiles = compiles;
                false
            }
            // The time between two steps is too short for one of them to count as finished.
            Step::Wait(ms) => {
                let most = if self.gone { SETTLE / 2 } else { OPENS - Duration::from_millis(1) };
                let room = (self.last + most).saturating_duration_since(world.now);
                world.pass(Duration::from_millis(ms).min(room));
                false
            }
            Step::Look => {
                world.look();
                false
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// From one manifest that denies to another, through any steps in any order and with any number of scans between
    /// them: what both deny is denied at every moment. In half of the cases, the service is not served when they begin.
    #[test]
    fn no_intermediate_step_is_served(
        deny in prop::sample::select(&DENIES[..]),
        version: bool,
        events: bool,
        looks: bool,
        fails: bool,
        steps in prop::collection::vec(step(), 1..24),
    ) {
        // For a version, its service's manifest denies, which must not be lost either.
        let whole = pieces(deny, 0).concat();
        let files: [(&str, &[u8]); 6] = [
            ("a.wasm", &component(0)),
            ("a.toml", whole.as_bytes()),
            ("a@2.wasm", &component(0)),
            ("b.wasm", &component(0)),
            ("site.wasm", &component(9)),
            ("site.toml", b"routes = '/*'\n"),
        ];
        let before = World::new(&files, events).live("a").unwrap().manifest;
        let mut world = World::starting(&files, events, if fails { Compiles::Fails } else { Compiles::AtOnce });
        prop_assert_eq!(world.live("a").is_none(), fails);
        let mut edit = Edit { deny, version, written: 3, number: 0, last: world.now, gone: false };
        // Without any route there is none to keep.
        let has_route = deny != "routes = []";
        let mut is_known = has_route;
        for step in steps {
            let acts = edit.make(step, &mut world);
            if acts {
                edit.last = world.now;
            }
            edit.gone |= !world.at("a.wasm").exists();
            if acts && looks {
                world.look();
            }
            let is_own = world.live("a").is_some() || world.is_held("/a");
            let is_there = world.at("a.toml").exists();
            prop_assert!(!is_known || !is_there || is_own, "the route leads elsewhere after {:?}", step);
            is_known = has_route && is_there && is_own;
            for spec in [world.live("a"), world.live("a@2")].into_iter().flatten() {
                prop_assert_eq!(&spec.manifest.policies, &before.policies, "{} after {:?}", spec.name, step);
                prop_assert!(spec.name != "a" || spec.manifest.routes == before.routes, "after {:?}", step);
            }
        }
        // The edit is finished and takes effect.
        world.compiles = Compiles::AtOnce;
        world.write("a.wasm", component(0));
        world.write("a.toml", pieces(deny, 99).concat());
        world.pass(OPENS);
        prop_assert_eq!(world.said("a"), Some("99".into()));
        // What has failed beside it is tried again.
        ["a@2.wasm", "b.wasm"].iter().for_each(|file| world.write(file, component(0)));
        world.pass(OPENS);
        prop_assert_eq!(world.live("a").unwrap().manifest.policies, before.policies);
        prop_assert_eq!(world.refused(), Vec::<String>::new());
    }
}
