//! Links in the documentation: those to files of the project, and to headings in them, lead
//! somewhere.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

use super::{files, read, root, shown};

/// What a page links to, and what can be linked to in it.
struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

fn page(text: &str) -> Page {
    let mut links = Vec::new();
    let mut anchors = BTreeSet::new();
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::all()) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&heading.take().unwrap());
                let count = seen.entry(slug.clone()).or_default();
                anchors.insert(if *count == 0 {
                    slug
                } else {
                    format!("{slug}-{count}")
                });
                *count += 1;
            }
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            Event::Start(
                Tag::Link {
                    link_type,
                    dest_url,
                    ..
                }
                | Tag::Image {
                    link_type,
                    dest_url,
                    ..
                },
            ) if link_type != LinkType::Email => links.push(dest_url.into_string()),
            Event::Html(html) | Event::InlineHtml(html) => {
                anchors.extend(attributes(&html, "id"));
                anchors.extend(attributes(&html, "name"));
                links.extend(attributes(&html, "href"));
                links.extend(attributes(&html, "src"));
                links.extend(attributes(&html, "srcset"));
            }
            _ => {}
        }
    }
    Page { links, anchors }
}

/// The values of an attribute in a piece of HTML.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let start = format!(" {name}=\"");
    html.split(&start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// What a heading is linked to by.
fn slug(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Why a link of a page leads nowhere.
fn wrong(from: &Path, own: &Page, link: &str) -> Option<String> {
    // Elsewhere: not ours to keep.
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = from.parent().unwrap().join(file);
    let there;
    let page = if file.is_empty() {
        own
    } else if file.starts_with('/') || !target.exists() {
        return Some("there is no such file".to_owned());
    } else if target
        .extension()
        .is_some_and(|extension| extension == "md")
    {
        there = page(&read(&target));
        &there
    } else {
        return (!anchor.is_empty()).then(|| "only pages have headings".to_owned());
    };
    let known = anchor.is_empty() || page.anchors.contains(anchor);
    (!known).then(|| format!("there is no heading for `#{anchor}`"))
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrongs = Vec::new();
    let mut checked = 0;
    for path in files(root(), "md") {
        let page = page(&read(&path));
        for link in &page.links {
            checked += 1;
            if let Some(why) = wrong(&path, &page, link) {
                wrongs.push(format!("{}: {link}: {why}", shown(&path)));
            }
        }
    }
    assert!(checked > 20, "only {checked} links: is this test blind?");
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn links_that_lead_nowhere_are_noticed() {
    let text = "# A `b`, c!\n\n## Twice\n\n## Twice\n\n<a id=\"own\"></a> [x](#twice-1)\n";
    let here = page(text);
    let from = root().join("docs/reference/config.md");
    for good in [
        "#a-b-c",
        "#twice",
        "#twice-1",
        "#own",
        "https://example.com/#x",
        "../../Cargo.toml",
    ] {
        assert_eq!(wrong(&from, &here, good), None, "{good}");
    }
    for bad in [
        "#nothing",
        "nothing.md",
        "diagnostics.md#nothing",
        "/Cargo.toml",
        "../../Cargo.toml#x",
    ] {
        assert!(wrong(&from, &here, bad).is_some(), "{bad}");
    }
    assert_eq!(here.links, ["#twice-1"]);
}
