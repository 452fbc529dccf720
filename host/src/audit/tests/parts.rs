//! Parts of lines, which killed hosts leave: they break no chain, and nobody can hide a change behind one.

use super::*;

/// A host that ends while it writes leaves a part of a line. Nobody can make one later.
#[test]
fn a_line_that_is_cut_off() {
    let (_directory, file) = trail(3, 1 << 20, 3);
    let whole = fs::read(&file).unwrap();
    for part in [1, 9, 60, 120, 230] {
        fs::write(&file, &whole[..whole.len() - part]).unwrap();
        let cut = check(std::slice::from_ref(&file));
        assert!(part == 1 || cut.unwrap().ends_cut_off());
        append(&file, 2, &settings(&file, 1 << 20, 3));
        let chain = check(std::slice::from_ref(&file)).unwrap();
        assert!(chain.cut_off == u64::from(part > 1) && !chain.ends_cut_off(), "{part}: {chain:?}");
        let changed = fs::read_to_string(&file).unwrap();
        let part_line = changed.lines().nth(2).unwrap();
        assert!(Chain::default().read(changed.replacen(part_line, "{", 1).as_bytes()).is_err());
    }
}

/// Hosts that are killed again and again while they write, also in the oldest file that is left.
#[test]
fn parts_may_follow_each_other() {
    let (_directory, file) = trail(2, 1 << 20, 3);
    let settings = settings(&file, 1 << 20, 3);
    for part in ["{\"se", "{\"seq\":4,\"prev", "{\0\0\0"] {
        let newline = if text(&file).ends_with('\n') { "" } else { "\n" };
        fs::write(&file, text(&file) + newline + part).unwrap();
    }
    append(&file, 1, &settings);
    let chain = check(std::slice::from_ref(&file)).unwrap();
    assert_eq!((chain.lines, chain.cut_off, chain.ends.unwrap()[1].0), (3, 3, 6));
    // The lines before them are in a file that is gone.
    let rest: String = text(&file).split_inclusive('\n').skip(2).collect();
    let mut chain = Chain::default();
    chain.read(rest.as_bytes()).unwrap();
    assert!(chain.lines == 1 && !chain.whole, "{chain:?}");
    // The first line of all is a part.
    fs::write(&file, "{\"seq\":1,").unwrap();
    append(&file, 2, &settings);
    let chain = check(std::slice::from_ref(&file)).unwrap();
    assert!(chain.whole && chain.ends.unwrap()[1].0 == 3);
}

/// Returns the lines of a trail of ten, which begins with a part, or not, and has others of every length, two of them in a row.
fn lines_with_parts(first: bool) -> Vec<String> {
    let mut head = Head::FIRST;
    let mut lines = Vec::new();
    for number in 0..10 {
        let whole = line(head, SystemTime::now(), &change(number)).unwrap();
        let cut = match number {
            0 if first => 12,
            3 => 8,
            4 => 60,
            7 => whole.len() - 30,
            _ => whole.len(),
        };
        lines.push(whole[..cut].to_owned());
        head = head.after(lines[number].as_bytes());
    }
    lines
}

/// Writes anew what is before each line from `from` to `to`, as anybody can who can write the file.
fn relinked(lines: &[String], from: usize, to: usize) -> Vec<String> {
    let mut head = Head::FIRST;
    let mut all = Vec::new();
    for (at, text) in lines.iter().enumerate() {
        let old = text.find("previous\":\"").map(|start| start + 11).filter(|start| text.len() > start + 64);
        let mut text = text.clone();
        if let Some(start) = old.filter(|_| (from..=to).contains(&at)) {
            let number = text[7..].split(',').next().unwrap().len() + 7;
            text.replace_range(start..start + 64, &hex(&head.hash));
            text.replace_range(7..number, &head.next.to_string());
        }
        head = head.after(text.as_bytes());
        all.push(text);
    }
    all
}

/// Whatever is changed before a line whose hash was noted is found, also if all lines up to any later one are written anew.
#[test]
fn nothing_hides_behind_a_part() {
    for first in [false, true] {
        let lines = lines_with_parts(first);
        let noted = hex(&hash(lines[9].as_bytes()));
        let found = |lines: &[String]| {
            let mut chain = Chain::with([&noted]);
            chain.read(lines.join("\n").as_bytes()).is_err() || !chain.wanted.is_empty() || !chain.whole
        };
        assert!(!found(&lines));
        for at in 0..9 {
            let number = at + 1;
            let changed = |text: &str| [&lines[..at], &[text.to_owned()], &lines[number..]].concat();
            let other = lines[at].replace("change ", "another ");
            let rewritten = [
                changed(if other == lines[at] { "{\"seq\":" } else { &other }),
                changed(&format!("{{\"seq\":{number}")),
                changed(&lines[at][..lines[at].len() - 1]),
                [&lines[..at], &lines[number..]].concat(),
                [&lines[..number], &["{".to_owned()], &lines[number..]].concat(),
            ];
            for (how, rewritten) in rewritten.iter().enumerate().filter(|(_, rewritten)| **rewritten != lines) {
                for to in at..rewritten.len() {
                    assert!(found(&relinked(rewritten, at, to)), "{first} {at} {how} {to}");
                }
            }
        }
    }
}

/// A part has to be one of the line that would follow, wherever it is.
#[test]
fn a_part_is_one_of_the_next_line() {
    let (_directory, file) = trail(3, 1 << 20, 3);
    let whole = text(&file);
    let of = |text: &str| {
        let mut chain = Chain::default();
        chain.read(text.as_bytes()).map(|()| chain.whole)
    };
    let third = whole.lines().nth(2).unwrap();
    let fourth = line(Head::FIRST.after(third.as_bytes()), SystemTime::now(), &change(4)).unwrap();
    for (part, expected) in [
        (&fourth[..fourth.len() - 2], true),
        (&fourth[..30], true),
        ("{\"seq\":4", true),
        ("{\"seq\":5", false),
        (&third[..90], false),
        (&fourth.replace("\"time\":\"", "\"what\":\"")[..130], false),
    ] {
        assert_eq!(of(&format!("{whole}{part}")).is_ok(), expected, "{part}");
    }
    // Before the first line of files whose older ones are gone, only a part without content has no proof.
    let rest = whole.split_once('\n').unwrap().1;
    for (part, expected) in [
        ("{\"seq\":1", true),
        ("{\"seq\":1,\"previous\":\"00ab", true),
        ("{\"seq\":1,\"change\":\"invented", false),
        ("{\"seq\":1,\"previous\":\"what", false),
        (&whole[..120], false),
    ] {
        let read = of(&format!("{part}\n{rest}"));
        assert!(if expected { read == Ok(false) } else { read.is_err() }, "{part}: {read:?}");
    }
    // One that is a proof of what follows.
    let cut = fourth[..150].to_owned();
    let fifth = line(Head::FIRST.after(third.as_bytes()).after(cut.as_bytes()), SystemTime::now(), &change(5)).unwrap();
    assert_eq!(of(&format!("{cut}\n{fifth}")), Ok(false));
    assert!(of(&format!("{}\n{fifth}", &cut[..149])).is_err());
    // A host that has stopped has written no more.
    let stopped = |event: &Event, cut: usize| {
        let (_directory, file) = trail(1, 1 << 20, 3);
        let mut trail = Trail::open(&file, &settings(&file, 1 << 20, 3)).unwrap();
        trail.append(SystemTime::now(), &Event::Stopped { drained: true }).unwrap();
        drop(trail);
        let whole = text(&file);
        let head = Head::FIRST.after(whole.lines().last().unwrap().as_bytes());
        let next = line(head, SystemTime::now(), event).unwrap();
        of(&format!("{whole}{}", &next[..cut])).is_ok()
    };
    assert!(stopped(&change(1), 100) && !stopped(&change(1), 150));
    for event in [Event::Started { directory: "/srv/guests".into() }, Event::Lost { lines: 1000 }] {
        assert!((1..140).all(|cut| stopped(&event, cut)), "{event:?}");
    }
}
