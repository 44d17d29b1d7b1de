//! Each test that docs/guarantees.md names exists, in the file that it names.

use std::fs;

const TABLE: &str = "docs/guarantees.md";

/// How the languages of the tests begin one.
fn begins(file: &str, test: &str) -> Vec<String> {
    match file.rsplit('.').next() {
        Some("rs") => vec![format!("fn {test}("), format!("fn {test}<")],
        Some("py") => vec![format!("def {test}(")],
        Some("mjs") => vec![format!("test(\"{test}\"")],
        _ => panic!("{TABLE}: {file} has no tests that this check knows"),
    }
}

#[test]
fn the_tests_in_the_table_of_guarantees_exist() {
    let text = fs::read_to_string(TABLE).expect("the table");
    let rows = text.lines().filter(|line| line.starts_with('|') && line.contains('`') && line.ends_with("` |"));
    let mut checked = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').rsplitn(3, " | ").map(|cell| cell.trim().trim_matches('`')).collect();
        let [file, test, _guarantee] = cells[..] else { panic!("{TABLE}: three cells are expected: {row}") };
        let code = fs::read_to_string(file).unwrap_or_else(|error| panic!("{TABLE}: {file}: {error}"));
        assert!(begins(file, test).iter().any(|begin| code.contains(begin)), "{TABLE}: {file} has no test {test}");
        checked += 1;
    }
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| guarantee")).count();
    assert_eq!(checked, lines, "{TABLE}: each row ends with a test and its file");
    assert!(checked > 100, "{checked} rows");
}
