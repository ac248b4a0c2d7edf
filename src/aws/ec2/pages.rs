//! Listings in pages: one page is read and let go before the next one comes.
//!
//! What bounds a listing is what is kept of it, not what is sent: a page that is too long is asked for again in smaller
//! ones, what is listed twice is kept once, and a listing that leads nowhere is an error. EC2 may send empty pages that
//! are not the last, so these alone prove nothing.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html#api-pagination>

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::{ApiError, Class};
use crate::aws::{Aws, xml};
use crate::scope::Scope;

/// Bytes of a page.
const PAGE_BYTES: usize = 1 << 20;
/// The pages to ask for, from the first choice to the last: 500 volumes with a few tags, and 5 with all that they may
/// have, are less than [`PAGE_BYTES`].
const SIZES: [usize; 4] = [500, 100, 25, 5];
/// As many pages in a row may bring nothing new.
const MAX_BARREN: u32 = 100;
/// As many items are kept: an account has 5000 volumes, if its limit was not raised.
const MAX_KEPT: usize = 20_000;
/// Bytes of text that are read as one tree: the tree takes ten times as much.
const TREE: usize = 64 << 10;

/// A listing.
pub(super) struct Listing<'a, T> {
    /// `DescribeVolumes`.
    pub(super) action: &'static str,
    /// The largest page to ask for.
    pub(super) most: usize,
    /// Makes the body of a request: of how many items, and from which token on.
    pub(super) request: &'a dyn Fn(usize, &str) -> String,
    /// Reads a page: its items, and the token of the next one.
    pub(super) parse: &'a dyn Fn(&[u8]) -> Result<Page<T>, String>,
    /// What an item is known by.
    pub(super) id: fn(&T) -> &str,
}

/// A page: its items, and the token of the next one.
pub(super) type Page<T> = (Vec<T>, Option<String>);

/// What was kept so far, and how it goes on.
struct Kept<T> {
    items: Vec<T>,
    places: BTreeMap<String, usize>,
    barren: u32,
    token: String,
}

impl<T> Kept<T> {
    fn new() -> Kept<T> {
        Kept { items: Vec::new(), places: BTreeMap::new(), barren: 0, token: String::new() }
    }

    /// Takes a page. `Ok(true)`: it was the last one.
    fn take(&mut self, (items, next): Page<T>, id: fn(&T) -> &str) -> Result<bool, String> {
        let before = self.items.len();
        for item in items {
            match self.places.get(id(&item)) {
                // The later look counts.
                Some(place) => self.items[*place] = item,
                None => {
                    self.places.insert(id(&item).to_owned(), self.items.len());
                    self.items.push(item);
                }
            }
        }
        let Some(next) = next else { return Ok(true) };
        if next == self.token {
            return Err("the list does not end: a page leads to itself".to_owned());
        }
        self.barren = if self.items.len() > before { 0 } else { self.barren + 1 };
        if self.barren == MAX_BARREN {
            return Err(format!("the list does not end: {MAX_BARREN} pages in a row had nothing new"));
        }
        if self.items.len() > MAX_KEPT {
            return Err(format!("the list has more than {MAX_KEPT} entries"));
        }
        self.token = next;
        Ok(false)
    }
}

impl Aws {
    /// All items of a listing, each once.
    pub(super) fn list<T>(&self, scope: &Scope, of: &Listing<'_, T>) -> Result<Vec<T>, ApiError> {
        loop {
            let size = of.most.min(SIZES[self.page.load(Ordering::Relaxed).min(SIZES.len() - 1)]);
            match self.list_by(scope, of, size) {
                // From the start: a token may only go with the request that it came from.
                Err(e) if e.class() == Class::TooLong && size > SIZES[SIZES.len() - 1] => {
                    let smaller = SIZES.iter().position(|s| *s < size).unwrap_or(SIZES.len() - 1);
                    log::debug!("{}: {e}; asking for {} at a time", of.action, SIZES[smaller]);
                    self.page.fetch_max(smaller, Ordering::Relaxed);
                }
                end => return end,
            }
        }
    }

    fn list_by<T>(&self, scope: &Scope, of: &Listing<'_, T>, size: usize) -> Result<Vec<T>, ApiError> {
        let mut kept = Kept::new();
        loop {
            let body = (of.request)(size, &kept.token);
            let call = Call { most: Some(PAGE_BYTES), ..Call::form(Service::Ec2, of.action, body, Repeat::Safe) };
            let page = self.client.call(scope, &call, of.parse)?;
            match kept.take(page, of.id) {
                Ok(true) => return Ok(kept.items),
                Ok(false) => {}
                Err(why) => return Err(ApiError::ours(of.action, Class::Fatal, why)),
            }
        }
    }
}

/// Reads a page whose items are in the list element `list`: some items at a time, for a tree of all would cost memory,
/// and a tree for each costs time.
pub(super) fn parse<T>(
    body: &[u8],
    root: &str,
    list: &str,
    read: &dyn Fn(roxmltree::Node<'_, '_>) -> Vec<T>,
) -> Result<Page<T>, String> {
    let Some((frame, items)) = std::str::from_utf8(body).ok().and_then(|text| xml::split(text, list)) else {
        return whole(body, root, list, read);
    };
    let (_, next) = whole(frame.as_bytes(), root, list, read)?;
    let mut all = Vec::with_capacity(items.len());
    let mut rest = items.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |item: &&&str| {
            bytes += item.len();
            bytes <= TREE
        };
        let (some, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        let text = format!("<some>{}</some>", some.concat());
        for item in xml::parse_plain(&text)?.root_element().children() {
            all.extend(read(item));
        }
        rest = after;
    }
    Ok((all, next))
}

/// The same by one tree.
pub(super) fn whole<T>(
    body: &[u8],
    root: &str,
    list: &str,
    read: &dyn Fn(roxmltree::Node<'_, '_>) -> Vec<T>,
) -> Result<Page<T>, String> {
    let document = xml::parse(body)?;
    let element = document.root_element();
    if element.tag_name().name() != root {
        return Err(format!("the answer is a {}", element.tag_name().name()));
    }
    let all = xml::items(element, list).flat_map(read).collect();
    Ok((all, xml::text(element, "nextToken").map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: std::ops::Range<usize>, next: &str) -> Page<String> {
        (ids.map(|n| n.to_string()).collect(), Some(next.to_owned()).filter(|n| !n.is_empty()))
    }

    fn take(kept: &mut Kept<String>, page: Page<String>) -> Result<bool, String> {
        kept.take(page, |s| s)
    }

    #[test]
    fn what_is_listed_twice_is_kept_once_and_an_empty_page_is_not_the_end() {
        let mut kept = Kept::new();
        for n in 0..10 {
            assert_eq!(take(&mut kept, page(0..0, &format!("e{n}"))), Ok(false));
            assert_eq!(take(&mut kept, page(n..n + 3, &format!("t{n}"))), Ok(false));
        }
        assert_eq!(take(&mut kept, page(11..13, "")), Ok(true));
        assert_eq!(kept.items, (0..13).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_list_without_an_end_is_an_error() {
        let mut kept = Kept::new();
        assert_eq!(take(&mut kept, page(0..2, "t")), Ok(false));
        assert_eq!(take(&mut kept, page(2..3, "t")).unwrap_err(), "the list does not end: a page leads to itself");

        for again in [0..0, 0..2] {
            let mut kept = Kept::new();
            assert_eq!(take(&mut kept, page(0..2, "t")), Ok(false));
            let end = (0..1000).find_map(|n| take(&mut kept, page(again.clone(), &format!("t{n}"))).err());
            assert_eq!(end.unwrap(), "the list does not end: 100 pages in a row had nothing new");
            assert_eq!(kept.items.len(), 2);
        }

        let mut kept = Kept::new();
        let end = (0..).find_map(|n| take(&mut kept, page(n * 500..(n + 1) * 500, &format!("t{n}"))).err());
        assert_eq!(end.unwrap(), "the list has more than 20000 entries");
        assert!(kept.items.len() <= MAX_KEPT + 500);
    }
}
