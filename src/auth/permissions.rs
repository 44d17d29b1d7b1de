//! What a credential allows: which actions in which rooms, and whose status. Equal permissions are shared.

use serde_json::Value;

use super::names::{Names, Pattern};
use crate::outside::shown_within;

/// The limit of entries of `caps`.
const MAX_RULES: usize = 64;
/// The limit of names and patterns in all lists of `caps` and `watch` together.
const MAX_NAMES: usize = 4096;
/// The limit of `*` in all of them together: with 1,000 a check takes some 20 µs in the worst case.
const MAX_STARS: usize = 1000;
/// The limit of bytes of an unknown field in an error, which also has to fit into a close frame.
const MAX_SHOWN_FIELD_BYTES: usize = 32;

/// Something that a client does in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Become a member, and set the member's state.
    Join,
    /// See the members, their states and messages. Includes [`Action::Count`].
    Observe,
    /// See the number of members.
    Count,
    /// Send messages.
    Publish,
}

impl Action {
    /// All actions with their names in `caps`.
    pub const NAMES: [(&'static str, Self); 4] =
        [("join", Self::Join), ("observe", Self::Observe), ("count", Self::Count), ("publish", Self::Publish)];

    /// The actions that this one includes, as bits.
    const fn bits(self) -> u8 {
        match self {
            Self::Join => 1,
            Self::Observe => Self::Count.bits() | 2,
            Self::Count => 4,
            Self::Publish => 8,
        }
    }

    /// The bit of this action alone.
    const fn bit(self) -> u8 {
        match self {
            Self::Observe => 2,
            other => other.bits(),
        }
    }

    /// The name in `caps`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, action)| *action == self).map_or("", |(name, _)| name)
    }
}

/// All actions, as bits.
const ALL_ACTIONS: u8 = Action::Join.bits() | Action::Observe.bits() | Action::Publish.bits();

/// An entry of `caps`: these actions in these rooms.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rule {
    /// Literal names are for names that users chose: a `*` in them has no meaning.
    rooms: Names,
    actions: u8,
}

/// What a client may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permissions {
    rules: Box<[Rule]>,
    watch: Names,
    /// Whether nothing needs to be checked.
    is_everything: bool,
    /// The work of a check, in bytes as [`crate::work_budget`] counts it.
    check_work: u32,
}

impl Permissions {
    fn new(rules: Box<[Rule]>, watch: Names) -> Self {
        let everywhere = rules.iter().filter(|rule| rule.rooms.is_all()).fold(0, |bits, rule| bits | rule.actions);
        let is_everything = everywhere == ALL_ACTIONS && watch.is_all();
        let stars = rules.iter().map(|rule| rule.rooms.stars()).sum::<usize>() + watch.stars();
        // A join costs 256 and takes some 10 µs; a search takes up to 20 ns.
        let check_work = if is_everything { 0 } else { u32::try_from(stars / 2).unwrap_or(u32::MAX) };
        Self { rules, watch, is_everything, check_work }
    }

    /// Every action in every room, and the status of all users.
    #[must_use]
    pub fn everything() -> Self {
        Self::new([Rule { rooms: Names::all(), actions: ALL_ACTIONS }].into(), Names::all())
    }

    /// One action in the rooms of one pattern, for visitors without a credential.
    #[must_use]
    pub fn one(action: Action, rooms: Pattern) -> Self {
        Self::new([Rule { rooms: Names::new([rooms], []), actions: action.bits() }].into(), Names::default())
    }

    /// What either of them allows. Both have the users of the first one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::new(self.rules.into_iter().chain(other.rules).collect(), self.watch)
    }

    /// The permissions in the claims `caps` and `watch`. Without `caps`, `default` applies; without `watch`, a
    /// credential with `caps` may watch nobody, and one without them the users of `default`.
    ///
    /// # Errors
    /// If a claim is not of its documented form, as a sentence.
    pub fn from_claims(caps: Option<&Value>, watch: Option<&Value>, default: &Self) -> Result<Self, String> {
        let rules = caps.map(rules).transpose()?;
        let watch = watch.map(|watch| Ok::<_, String>(Names::new(patterns(watch, "watch")?, []))).transpose()?;
        let watch = watch.unwrap_or_else(|| if rules.is_some() { Names::default() } else { default.watch.clone() });
        let rules = rules.unwrap_or_else(|| default.rules.clone());
        let lists = || rules.iter().map(|rule| &rule.rooms).chain([&watch]);
        let (names, stars) = (lists().map(Names::len).sum::<usize>(), lists().map(Names::stars).sum::<usize>());
        if names > MAX_NAMES || stars > MAX_STARS {
            return Err(format!(
                "`caps` and `watch` have {names} names and {stars} `*`; the limits are {MAX_NAMES} and {MAX_STARS}"
            ));
        }
        Ok(Self::new(rules, watch))
    }

    /// Whether the action is allowed in the room.
    #[must_use]
    pub fn allow(&self, action: Action, room: &str) -> bool {
        self.is_everything || self.rules_of(action).any(|rule| rule.rooms.contains(room))
    }

    /// Whether the client may see this user's status.
    #[must_use]
    pub fn allow_watch(&self, user: &str) -> bool {
        self.is_everything || self.watch.contains(user)
    }

    /// Whether every action is allowed in every room, and the status of all users, so that nothing needs to be checked.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.is_everything
    }

    /// Whether the state and the rooms of a watched user are the same for its holder as for all users.
    #[must_use]
    pub fn observes_all(&self) -> bool {
        self.is_everything || self.rules_of(Action::Observe).any(|rule| rule.rooms.is_all())
    }

    /// The least text from `from` on at which the name of a room may stand where the action is allowed.
    #[must_use]
    pub fn next_room<'a>(&'a self, action: Action, from: &'a str) -> Option<&'a str> {
        self.rules_of(action).filter_map(|rule| rule.rooms.next_from(from)).min()
    }

    /// What the check of a name costs, in bytes of work; 0 with few patterns.
    #[must_use]
    pub fn check_work(&self) -> usize {
        self.check_work as usize
    }

    fn rules_of(&self, action: Action) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.actions & action.bit() != 0)
    }
}

fn rules(caps: &Value) -> Result<Box<[Rule]>, String> {
    let entries = caps.as_array().ok_or("`caps` must be a list")?;
    if entries.len() > MAX_RULES {
        return Err(format!("`caps` has {} entries; the limit is {MAX_RULES}", entries.len()));
    }
    entries.iter().map(rule).collect()
}

fn rule(entry: &Value) -> Result<Rule, String> {
    let entry = entry.as_object().ok_or("an entry of `caps` must be an object")?;
    let list = |name: &str| entry.get(name).map_or(Ok(Vec::new()), |value| texts(value, name));
    if let Some(unknown) = entry.keys().find(|name| !["rooms", "exact", "allow"].contains(&name.as_str())) {
        let unknown = shown_within(unknown, MAX_SHOWN_FIELD_BYTES);
        return Err(format!("an entry of `caps` has the unknown field `{unknown}`"));
    }
    let actions = entry.get("allow").ok_or("an entry of `caps` has no `allow`")?;
    let mut bits = 0;
    for name in texts(actions, "allow")? {
        let action = Action::NAMES.iter().find(|(known, _)| *known == name);
        bits |= action.ok_or("`allow` may have join, observe, count and publish")?.1.bits();
    }
    let rooms = list("rooms")?.into_iter().map(Pattern::new).collect::<Result<Vec<_>, _>>()?;
    Ok(Rule { rooms: Names::new(rooms, list("exact")?), actions: bits })
}

fn patterns(value: &Value, what: &str) -> Result<Vec<Pattern>, String> {
    texts(value, what)?.into_iter().map(Pattern::new).collect()
}

fn texts<'a>(value: &'a Value, what: &str) -> Result<Vec<&'a str>, String> {
    let wrong = || format!("`{what}` must be a list of strings");
    let list = value.as_array().ok_or_else(wrong)?;
    if list.len() > MAX_NAMES {
        return Err(format!("`{what}` has {} entries; the limit is {MAX_NAMES}", list.len()));
    }
    list.iter().map(|text| text.as_str().ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_allows_its_actions_in_its_rooms() {
        let caps = json!([{"rooms": ["team-1/*"], "exact": ["dm-*"], "allow": ["join", "observe"]},
            {"rooms": ["public"], "allow": ["count"]}]);
        let permissions = Permissions::from_claims(Some(&caps), None, &Permissions::everything()).unwrap();
        let check = |action, room, want| assert_eq!(permissions.allow(action, room), want, "{action:?} {room}");
        check(Action::Join, "team-1/a", true);
        check(Action::Observe, "dm-*", true);
        check(Action::Observe, "dm-7", false);
        check(Action::Count, "team-1/a", true);
        check(Action::Publish, "team-1/a", false);
        check(Action::Count, "public", true);
        check(Action::Observe, "public", false);
        assert!(!permissions.allow_watch("bob"), "caps without watch");
    }

    #[test]
    fn without_caps_the_default_applies() {
        let default = Permissions::everything();
        let permissions = Permissions::from_claims(None, None, &default).unwrap();
        assert!(permissions.is_everything());
        let watch = json!(["team-*"]);
        let permissions = Permissions::from_claims(None, Some(&watch), &default).unwrap();
        assert!(permissions.allow(Action::Publish, "x") && permissions.allow_watch("team-1"));
        assert!(!permissions.allow_watch("bob"));
    }

    #[test]
    fn claims_of_another_form_are_errors() {
        let default = Permissions::everything();
        for caps in [
            json!({}),
            json!("x"),
            json!(null),
            json!([1]),
            json!([{}]),
            json!([{"allow": ["fly"]}]),
            json!([{"allow": "join"}]),
            json!([{"allow": [1]}]),
            json!([{"allow": [], "rooms": "x"}]),
            json!([{"allow": [], "rooms": [""]}]),
            json!([{"allow": [], "room": ["x"]}]),
            Value::Array(vec![json!({"allow": []}); MAX_RULES + 1]),
        ] {
            assert!(Permissions::from_claims(Some(&caps), None, &default).is_err(), "{caps}");
        }
        for watch in [json!("*"), json!([1]), json!(null), json!([""])] {
            assert!(Permissions::from_claims(None, Some(&watch), &default).is_err(), "{watch}");
        }
    }

    fn from(caps: &Value, watch: &Value) -> Result<Permissions, String> {
        Permissions::from_claims(Some(caps), Some(watch), &Permissions::everything())
    }

    #[test]
    fn everything_is_recognized_however_it_is_written() {
        let check = |caps, watch, expected: bool| {
            let permissions = from(&caps, &watch).unwrap();
            assert_eq!(permissions.is_everything(), expected, "{caps} {watch}");
            assert!(!expected || permissions.check_work() == 0);
        };
        let all = json!(["join", "observe", "publish"]);
        check(json!([{"rooms": ["*"], "allow": all}]), json!(["*"]), true);
        let split =
            json!([{"rooms": ["x", "**"], "allow": ["join"]}, {"rooms": ["*"], "allow": ["observe", "publish"]}]);
        check(split, json!(["bob", "*"]), true);
        check(json!([{"rooms": ["*"], "allow": ["join", "count", "publish"]}]), json!(["*"]), false);
        check(json!([{"rooms": ["*"], "allow": all}]), json!(["b*"]), false);
        check(json!([{"exact": ["*"], "allow": all}]), json!(["*"]), false);
    }

    #[test]
    fn the_size_of_all_lists_together_is_limited_and_large_ones_cost_work() {
        let rooms = |count: usize, star: &str| {
            json!([{"rooms": vec![format!("{star}x"); 1],
            "exact": (0..count).map(|number| number.to_string()).collect::<Vec<_>>(), "allow": ["join"]}])
        };
        assert!(from(&rooms(MAX_NAMES - 2, ""), &json!(["bob"])).is_ok());
        assert!(from(&rooms(MAX_NAMES - 2, ""), &json!(["bob", "carol"])).is_err());
        let stars = |count: usize| {
            json!([{"rooms": (0..count).map(|at| format!("{at}*")).collect::<Vec<_>>(),
            "allow": ["join"]}])
        };
        assert!(from(&stars(MAX_STARS), &json!(["*"])).is_err());
        let large = from(&stars(MAX_STARS - 1), &json!(["*"])).unwrap();
        let small = from(&stars(1), &json!([])).unwrap();
        assert_eq!((large.check_work(), small.check_work()), (MAX_STARS / 2, 0));
    }
}
