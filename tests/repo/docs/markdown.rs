//! The parts of a page that the tests of the docs read: links, headings, code blocks, and commands.

/// The lines of a page that are not in a code block.
pub(super) fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The code blocks of a page: the info string and the code.
pub(super) fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(info) = line.strip_prefix("```") {
            inside = !inside;
            if inside {
                blocks.push((info.to_owned(), String::new()));
            }
        } else if inside {
            let (_, code) = blocks.last_mut().unwrap();
            code.push_str(line);
            code.push('\n');
        }
    }
    assert!(!inside, "a code block has no end");
    blocks
}

/// A line without its inline code, in which brackets are not links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The targets of the links and pictures of a page.
pub(super) fn links(text: &str) -> Vec<String> {
    let links = |line: &str| {
        let line = without_code(line);
        let targets = line.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
        targets.collect::<Vec<_>>()
    };
    prose(text).flat_map(links).collect()
}

/// The anchors of a page, as GitHub and mdBook derive them from headings.
pub(super) fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
        kept.map(|char| if char == ' ' { '-' } else { char }).collect::<String>()
    };
    headings.map(slug).collect()
}

/// Every `lodge COMMAND` on a page: in a shell line or in inline code.
pub(super) fn commands(text: &str) -> Vec<String> {
    let shells = blocks(text).into_iter().filter_map(|(info, code)| match info.as_str() {
        "sh" => Some(code),
        "console" => Some(code.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>().join("\n")),
        _ => None,
    });
    let lines = shells.flat_map(|code| code.lines().map(str::to_owned).collect::<Vec<_>>());
    let spans = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    let commands = lines.chain(spans).filter(|line| line.starts_with("lodge "));
    commands.map(|line| line.split(" #").next().unwrap().to_owned()).collect()
}

/// The words of a shell line, some of which are in single quotes.
pub(super) fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(number, part)| match number % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}
