//! A parser of PromQL that finds the names in a query.

/// The names in a query.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Each series, with the labels of its selector and their values.
    pub(super) selectors: Vec<(String, Vec<(String, String)>)>,
    /// The labels that are grouped by or matched on.
    pub(super) labels: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

const GROUPING: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"];

impl Names {
    /// Parses a query.
    pub(super) fn of(query: &str) -> Self {
        let mut names = Self::default();
        let mut tokens = tokens(query).into_iter().peekable();
        while let Some(token) = tokens.next() {
            let Token::Word(word) = token else {
                assert!(token != Token::Sign('{'), "a selector without a name: {query}");
                continue;
            };
            let open = tokens.peek() == Some(&Token::Sign('('));
            if GROUPING.contains(&word.as_str()) {
                // `group_left` needs no list.
                if open {
                    let list = tokens.by_ref().take_while(|token| *token != Token::Sign(')'));
                    names.labels.extend(list.filter_map(Token::word));
                }
                continue;
            }
            // `sum by (…) (…)` is not a series.
            let aggregates = matches!(tokens.peek(), Some(Token::Word(next)) if next == "by" || next == "without");
            if open || aggregates || OPERATORS.contains(&word.as_str()) {
                continue;
            }
            let mut matchers: Vec<(String, String)> = Vec::new();
            if tokens.next_if_eq(&Token::Sign('{')).is_some() {
                for token in tokens.by_ref().take_while(|token| *token != Token::Sign('}')) {
                    match token {
                        Token::Word(label) => matchers.push((label, String::new())),
                        Token::Text(value) => matchers.last_mut().expect("a label before its value").1 = value,
                        Token::Sign(_) => {}
                    }
                }
            }
            names.selectors.push((word, matchers));
        }
        names
    }
}

impl Token {
    fn word(self) -> Option<String> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }
}

/// Words, strings and signs. Numbers, durations and ranges are omitted.
fn tokens(query: &str) -> Vec<Token> {
    let is_word = |c: &char| c.is_ascii_alphanumeric() || "_:.".contains(*c);
    let mut tokens = Vec::new();
    let mut rest = query.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\'' => {
                let mut text = String::new();
                while let Some(next) = rest.next().filter(|next| *next != c) {
                    text.push(if next == '\\' { rest.next().unwrap_or(next) } else { next });
                }
                tokens.push(Token::Text(text));
            }
            '[' => rest.by_ref().take_while(|next| *next != ']').for_each(drop),
            c if is_word(&c) => {
                let mut word = String::from(c);
                while let Some(next) = rest.next_if(is_word) {
                    word.push(next);
                }
                if !c.is_ascii_digit() && c != '.' {
                    tokens.push(Token::Word(word));
                }
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}
