//! Whether a text that is written in place looks cut off: whoever writes it may not be done.
//!
//! The system tells when a file is closed, but some programs open it anew for every line, and some
//! file systems tell nothing. So a text that could be the first part of another one is left alone for
//! a while. Judged too carefully, that costs a change two seconds; judged too lightly, it would drop
//! routes, or what protects them.

pub(crate) use crate::events::reload::Doubt;

/// How much of an end is looked for in what was before: a line or two, and a few. The longer one is there
/// once where the shorter one is repeated, and the shorter one is still there where something else in
/// the longer one has changed.
const ENDS: [usize; 2] = [64, 256];

/// Shorter texts than this may become half as long by taking out a line.
const SMALL: usize = 1024;

/// Whether a text looks cut off, by what it was before. `doubted`: so did what was read before this,
/// since the last one that was believed.
pub(super) fn doubt(before: &str, now: &str, doubted: bool) -> Option<Doubt> {
    if before == now {
        return None;
    }
    match (has_mark(before), has_mark(now)) {
        (true, false) => return Some(Doubt::NoMark),
        (_, true) => return None,
        (false, false) => {}
    }
    let (old, new) = (before.trim_end(), now.trim_end());
    if new.len() < old.len() {
        if old.starts_with(new) {
            return Some(Doubt::Beginning);
        }
        let goes_on = |end: &str| !old.ends_with(end) && old.contains(end);
        if ENDS.into_iter().any(|length| goes_on(end(new, length))) {
            return Some(Doubt::Middle);
        }
        if new.len() * 2 < old.len() && old.len() >= SMALL {
            return Some(Doubt::Half);
        }
    }
    if before.ends_with('\n') && !now.ends_with('\n') {
        return Some(Doubt::LastLine);
    }
    // It grows. Once it ends as it did before, it is whole.
    let longest = ENDS[ENDS.len() - 1];
    (doubted && end(old, longest) != end(new, longest)).then_some(Doubt::Middle)
}

/// The end of a text, of about this length.
fn end(text: &str, length: usize) -> &str {
    let mut from = text.len().saturating_sub(length);
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    &text[from..]
}

/// Whether a text says itself where it ends: by YAML's mark for the end of a document.
fn has_mark(text: &str) -> bool {
    last_line(text.trim_end()) == "..."
}

fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(routes: usize) -> String {
        let routes = (0..routes).map(|at| {
            format!(
                "  - path: /{at}\n    auth:\n      basic: {{ users: [ 'ä:$2b$10$abc' ] }}\n    to: p{}\n",
                at % 3
            )
        });
        let head = "listeners: [ { bind: '127.0.0.1:0' } ]\npools:\n  p0: {}\nroutes:\n";
        [head.to_owned(), routes.collect()].concat()
    }

    #[test]
    fn every_first_part_is_doubted_wherever_it_was_cut() {
        let whole = text(20);
        for (cut, _) in whole.char_indices() {
            let part = &whole[..cut];
            assert!(
                part.trim_end() == whole.trim_end() || doubt(&whole, part, false).is_some(),
                "{part:?}"
            );
        }
        assert_eq!(doubt(&whole, &whole, false), None);
        assert_eq!(doubt(&whole, "", false), Some(Doubt::Beginning));
        assert_eq!(doubt("", &whole, false), None, "more than before");
    }

    #[test]
    fn so_is_a_part_of_a_text_that_is_another_one_at_its_beginning() {
        let whole = text(20);
        let other = whole.replacen("127.0.0.1", "0.0.0.0", 1);
        let mut believed = Vec::new();
        for (cut, _) in other
            .char_indices()
            .filter(|(cut, _)| *cut < other.len() - 1)
        {
            if doubt(&whole, &other[..cut], false).is_none() {
                believed.push(cut);
            }
        }
        assert_eq!(believed, [0_usize; 0]);
        assert_eq!(doubt(&whole, &other, false), None);
    }

    #[test]
    fn what_is_changed_in_the_middle_is_believed_at_once() {
        let whole = text(20);
        for changed in [
            whole.replace("/7\n", "/seven\n"),
            whole.replace("  - path: /7\n", ""),
            text(21),
            format!("{whole}# the end\n"),
            // Shorter, with the same end.
            text(20).replacen(
                "    auth:\n      basic: { users: [ 'ä:$2b$10$abc' ] }\n",
                "",
                5,
            ),
        ] {
            assert_eq!(doubt(&whole, &changed, false), None, "{changed}");
        }
        assert_eq!(doubt("a: b\nc: d\n", "e: f\n", false), None, "a small one");
    }

    #[test]
    fn one_that_grows_is_doubted_until_it_ends_as_before() {
        let whole = text(20);
        let new = whole
            .replacen("/1", "/another/1", 3)
            .replacen("p2", "pool-two", 5);
        let mut doubted = true;
        // A line at a time, as a script does it.
        for (cut, _) in new.match_indices('\n') {
            let part = &new[..=cut];
            doubted = doubt(&whole, part, doubted).is_some();
            assert!(doubted || part == new, "{part}");
        }
        assert!(!doubted);
        assert_eq!(
            doubt(&whole, &new.replace("p1\n", "p\n"), true),
            Some(Doubt::Middle)
        );
    }

    #[test]
    fn a_mark_at_the_end_is_honoured() {
        let marked = format!("{}...\n", text(20));
        let without = text(30);
        assert_eq!(doubt(&marked, &without, false), Some(Doubt::NoMark));
        assert!(!Doubt::NoMark.ends_by_itself() && Doubt::Middle.ends_by_itself());
        // With it, whatever is missing is meant to be.
        let shorter = format!("{}...\n", text(2));
        assert_eq!(doubt(&marked, &shorter, true), None);
        assert_eq!(doubt(&text(20), &shorter, true), None);
        assert_eq!(doubt(&marked, &marked.replace("...\n", "..."), false), None);
        assert_eq!(
            doubt(&marked, &marked.replace("...\n", ".."), false),
            Some(Doubt::NoMark)
        );
    }
}
