//! Patterns of names, as permissions and settings have them.

/// The limit of bytes of a pattern or a literal name: as long as the longest name of a room.
const MAX_PATTERN_BYTES: usize = 256;

/// A pattern in which `*` stands for any characters, also none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern of a text.
    ///
    /// # Errors
    /// If it is empty or too long.
    pub fn new(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=MAX_PATTERN_BYTES => Ok(Self(text.into())),
            0 => Err("a pattern is empty".to_owned()),
            length => Err(format!("a pattern has {length} bytes; the limit is {MAX_PATTERN_BYTES}")),
        }
    }

    /// The pattern of all names.
    #[must_use]
    pub fn any() -> Self {
        Self("*".into())
    }

    /// Whether all names fit.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether the whole name fits. The part before the first `*` and the part after the last one must be at the ends;
    /// each part between them is taken where it occurs first. Each byte of the name is looked at once by each search.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(name) = name.strip_prefix(first) else { return false };
        let Some(mut name) = name.strip_suffix(last) else { return false };
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        true
    }

    /// The part before the first `*`, with which each name that fits begins.
    #[must_use]
    pub fn start(&self) -> &str {
        self.0.split('*').next().unwrap_or_default()
    }

    /// The number of `*`.
    #[must_use]
    pub fn stars(&self) -> usize {
        self.0.bytes().filter(|byte| *byte == b'*').count()
    }

    /// The pattern as text.
    #[must_use]
    pub fn into_text(self) -> Box<str> {
        self.0
    }
}
