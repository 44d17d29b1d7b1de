//! As much of Rust's syntax as the checks need: what is code, and which lines a function has.

/// The code of a file: comments, and what stands in literals, become spaces. Lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            'r' if !is_word(at.checked_sub(1).map(|before| chars[before])) => raw_string_end(&chars, at),
            '\'' => character_end(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|&char| if char == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

fn is_word(char: Option<char>) -> bool {
    // The b of a raw byte string begins one; before it stands no word.
    char.is_some_and(|char| char != 'b' && (char.is_alphanumeric() || char == '_'))
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|&char| char == '\n').map_or(chars.len(), |length| from + length)
}

fn comment_end(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Where `r"…"` or `r#"…"#` ends; `from` if it is neither.
fn raw_string_end(chars: &[char], from: usize) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|&&char| char == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let begin = from + hashes + 2;
    let length = chars[begin..].windows(end.len()).position(|window| window == end);
    length.map_or(chars.len(), |length| begin + length + end.len())
}

/// Where a character ends; `from` if the quote begins a lifetime.
fn character_end(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => chars[from + 3..].iter().position(|&char| char == '\'').map_or(from, |end| from + end + 4),
        (Some(_), Some('\'')) => from + 3,
        _ => from,
    }
}

/// The same code without what is compiled for tests only: an item after `#[cfg(test)]`, to the end of its braces.
pub(crate) fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(begin) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..begin]);
        let item = &rest[begin..];
        let length = match (item.find('{'), item.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => block_end(item, brace),
            (_, Some(semicolon)) => semicolon + 1,
            _ => item.len(),
        };
        rest = &item[length..];
    }
    kept + rest
}

/// Where the block that begins with the brace at `open` ends.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, char) in code[open..].char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// The functions of a file: each with the number of its first line and how many lines it has.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    for (begin, _) in code.match_indices("fn ") {
        let name: String =
            code[begin + 3..].chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        if name.is_empty() || is_word(code[..begin].chars().next_back()) {
            continue;
        }
        let declaration = &code[begin..];
        let Some(open) = declaration.find('{') else { continue };
        // A semicolon ends a function without a body; one in `[u8; 4]` does not.
        if ends_before(&declaration[..open]) {
            continue;
        }
        let first = 1 + code[..begin].matches('\n').count();
        functions.push((name, first, declaration[..block_end(declaration, open)].lines().count()));
    }
    functions
}

fn ends_before(declaration: &str) -> bool {
    let mut depth = 0;
    for char in declaration.chars() {
        match char {
            '[' => depth += 1,
            ']' => depth -= 1,
            ';' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn code_is_what_is_neither_comment_nor_literal() {
    let check = |text: &str, wanted: &str| {
        let words: Vec<_> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), wanted, "{text}");
    };
    check("a // b\nc", "a c");
    check("a /* b /* c */ d */ e", "a e");
    check(r#"a("b \" c", 'd', '\'', '"') e"#, "a( , , , ) e");
    check(r##"a(r"b \", r#"c " d"#, br"e") f"##, "a( , , b ) f");
    check("fn a<'b>(c: &'b str, d: for_r) {}", "fn a<'b>(c: &'b str, d: for_r) {}");
    check("'\\u{1F600}' a", "a");
}

#[test]
fn tests_in_a_file_are_not_its_code() {
    assert_eq!(without_tests("a; #[cfg(test)] mod tests { use b; fn c() { } } d;"), "a;  d;");
    assert_eq!(without_tests("a; #[cfg(test)] mod tests; d;"), "a;  d;");
}

#[test]
fn functions_are_found_with_their_lines() {
    let found = functions("fn a() {\n  {}\n}\n\nfn b(c: [u8; 2]) -> d\nwhere\n{\n}\nfn e();\nfn f() {}\n");
    let wanted = [("a", 1, 3), ("b", 5, 4), ("f", 10, 1)];
    assert_eq!(found, wanted.map(|(name, first, lines)| (name.to_owned(), first, lines)));
}
