//! "Did you mean …": the nearest of the right names.

/// The name nearest to `word`, if one is near enough to have been meant.
///
/// Near enough is one edit in three characters (a swap counts as one), or the same letters in
/// another case.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    names
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&lower, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| {
            let longer = word.chars().count().max(name.chars().count());
            *distance <= (longer / 3).max(1) && *distance < longer
        })
        .min_by_key(|(distance, name)| (*distance, name.len()))
        .map(|(_, name)| name)
}

/// `a`, `b` or `c`.
pub fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["health", "host", "endpoints", "tls"];
        assert_eq!(nearest("helth", names), Some("health"));
        assert_eq!(nearest("Endpoint", names), Some("endpoints"));
        assert_eq!(nearest("hsot", names), Some("host"));
        assert_eq!(nearest("weight", ["to"]), None);
        assert_eq!(nearest("x", ["y"]), None);
    }

    #[test]
    fn lists_read_like_english() {
        assert_eq!(quoted_list(["a"]), "`a`");
        assert_eq!(quoted_list(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
