//! What each client address has in progress, and how fast its requests come.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Limit, LimitKind, OnLimit, RateLimit};
use crate::address::Address;
use crate::config::Config;

/// The limits on one client address, as they are set when serving begins.
#[derive(Debug, Default)]
pub(crate) struct AddressRules {
    at_once: Option<Limit>,
    rate: Option<Bucket>,
    max_waiting: usize,
}

/// Whom an address is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    ip: IpAddr,
    /// The link of a link-local address: on another, another has it (RFC 4007). 0 for all others.
    link: u32,
}

impl From<IpAddr> for Client {
    fn from(ip: IpAddr) -> Self {
        Client { ip, link: 0 }
    }
}

/// A token bucket, told as times: a token comes back every `interval`, and `tolerance` is how far ahead of
/// that a full bucket lets requests come (the "generic cell rate algorithm", ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    tolerance: Duration,
    on_limit: OnLimit,
}

impl AddressRules {
    pub(crate) fn new(config: &Config) -> Self {
        AddressRules {
            at_once: config.max_per_address,
            rate: config.max_rate_per_address.and_then(Bucket::new),
            max_waiting: config.max_waiting,
        }
    }

    /// The client that `address` is counted as; `None` if these rules do not concern it.
    ///
    /// An IPv6 client has at least a /64 to itself (RFC 6177), so that is what counts, but for link-local addresses, of
    /// which each is a neighbour's (RFC 4291, 2.5.6). Clients of Unix sockets are all this machine's own and mostly
    /// unnamed: they are not limited by address.
    pub(crate) fn client(&self, address: &Address) -> Option<Client> {
        if self.at_once.is_none() && self.rate.is_none() {
            return None;
        }
        Some(match (address.ip()?, address) {
            (ip @ IpAddr::V6(v6), Address::Inet(SocketAddr::V6(address))) if v6.is_unicast_link_local() => Client {
                ip,
                link: address.scope_id(),
            },
            (IpAddr::V6(ip), _) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))).into(),
            (whole, _) => whole.into(),
        })
    }
}

impl Bucket {
    /// Longer than any server runs: 30 years. That, times all tokens that a bucket can have, is within what an
    /// `Instant` can tell: `RateLimit::reject(1).per(Duration::MAX)` is one for ever, and not the end of accepting.
    const LONGEST: Duration = Duration::from_hours(30 * 365 * 24);

    fn new(limit: RateLimit) -> Option<Self> {
        let interval = limit.interval()?.min(Self::LONGEST);
        Some(Bucket {
            interval,
            tolerance: interval.saturating_mul(limit.burst.max(1) - 1),
            on_limit: limit.on_limit,
        })
    }
}

/// What the limits say to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admit,
    /// It waits, for this limit, not before this time.
    Hold(LimitKind, Instant),
    Reject(LimitKind),
    /// The patience with requests is over: none is begun any more.
    TooLate,
}

/// The clients that have requests in progress or came lately.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Those with requests in progress or waiting, so there are never more than connections.
    in_use: HashMap<Client, Use>,
    /// When the bucket of each will be full again, less the tolerance: later than now for those that came
    /// lately.
    buckets: HashMap<Client, Instant>,
}

#[derive(Debug, Default)]
struct Use {
    running: usize,
    waiting: usize,
}

impl Addresses {
    /// Buckets kept at most. Senders of datagrams can invent addresses, which must not cost memory
    /// without end: past this number, a client that was seen before gets a full bucket.
    const MOST_BUCKETS: usize = 1 << 16;

    /// Decides on a request of `client` that has come `now`, when `waiting` wait already, and counts it.
    pub(crate) fn admit(&mut self, rules: &AddressRules, client: Client, now: Instant, waiting: usize) -> Verdict {
        let verdict = self.decide(rules, client, now, waiting);
        match verdict {
            Verdict::Admit => self.in_use.entry(client).or_default().running += 1,
            Verdict::Hold(..) => self.in_use.entry(client).or_default().waiting += 1,
            Verdict::Reject(_) | Verdict::TooLate => {}
        }
        verdict
    }

    fn decide(&mut self, rules: &AddressRules, client: Client, now: Instant, waiting: usize) -> Verdict {
        let mut hold = None;
        let over = [self.over_number(rules, client, now), self.over_rate(rules, client, now)];
        for (kind, on_limit, turn) in over.into_iter().flatten() {
            if on_limit == OnLimit::Reject || waiting >= rules.max_waiting {
                return Verdict::Reject(kind);
            }
            hold = Some((kind, turn));
        }
        if let Some(bucket) = &rules.rate {
            self.take_token(bucket, client, now);
        }
        hold.map_or(Verdict::Admit, |(kind, turn)| Verdict::Hold(kind, turn))
    }

    fn over_number(&self, rules: &AddressRules, client: Client, now: Instant) -> Option<(LimitKind, OnLimit, Instant)> {
        let limit = rules.at_once?;
        // Those that wait will run, too, and came first.
        let present = self.in_use.get(&client).map_or(0, |used| used.running + used.waiting);
        (present >= limit.max()).then_some((LimitKind::PerAddress, limit.on_limit(), now))
    }

    /// The time is that of the client's next token.
    fn over_rate(&self, rules: &AddressRules, client: Client, now: Instant) -> Option<(LimitKind, OnLimit, Instant)> {
        let bucket = rules.rate.as_ref()?;
        let turn = self.buckets.get(&client)?.checked_sub(bucket.tolerance)?;
        (turn > now).then_some((LimitKind::RatePerAddress, bucket.on_limit, turn))
    }

    fn take_token(&mut self, bucket: &Bucket, client: Client, now: Instant) {
        if self.buckets.len() >= Self::MOST_BUCKETS && !self.buckets.contains_key(&client) {
            self.buckets.retain(|_, next| *next > now);
            // So that the next sweep is far away.
            if self.buckets.len() > Self::MOST_BUCKETS / 2 {
                self.buckets.clear();
            }
        }
        let next = self.buckets.entry(client).or_insert(now);
        *next = (*next).max(now) + bucket.interval;
    }

    /// A waiting request of `client` runs, if there is room for it.
    pub(crate) fn resume(&mut self, rules: &AddressRules, client: Client) -> bool {
        let used = self.in_use.entry(client).or_default();
        if rules.at_once.is_some_and(|limit| used.running >= limit.max()) {
            return false;
        }
        used.waiting -= 1;
        used.running += 1;
        true
    }

    /// All requests are another process's matter.
    pub(crate) fn forget_present(&mut self) {
        self.in_use.clear();
    }

    /// A request of `client` is over.
    pub(crate) fn release(&mut self, client: Client, was_waiting: bool) {
        let Some(used) = self.in_use.get_mut(&client) else {
            return;
        };
        if was_waiting {
            used.waiting -= 1;
        } else {
            used.running -= 1;
        }
        if used.running + used.waiting == 0 {
            self.in_use.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Client = Client {
        ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
        link: 0,
    };

    fn rate(limit: RateLimit) -> AddressRules {
        AddressRules {
            rate: Bucket::new(limit),
            max_waiting: 2,
            ..AddressRules::default()
        }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let rules = rate(RateLimit::reject(1));
        let client = |text: &str| rules.client(&Address::from(text)).map(|client| client.ip.to_string());
        assert_eq!(client("10.0.0.1:80").as_deref(), Some("10.0.0.1"));
        assert_eq!(client("[::ffff:10.0.0.1]:80").as_deref(), Some("10.0.0.1"));
        assert_eq!(client("[2001:db8:1:2:3:4:5:6]:80").as_deref(), Some("2001:db8:1:2::"));
        assert_eq!(client("[fe80::1:2%1]:80").as_deref(), Some("fe80::1:2"));
        assert_eq!(rules.client(&Address::Unnamed), None);
        assert_eq!(AddressRules::default().client(&"10.0.0.1:80".into()), None);
    }

    #[test]
    fn the_neighbours_on_two_links_are_two_although_they_have_the_same_address() {
        let rules = rate(RateLimit::reject(1));
        let client = |text: &str| rules.client(&Address::from(text));
        assert_ne!(client("[fe80::1%1]:80"), client("[fe80::1%2]:80"));
        assert_eq!(client("[fe80::1%1]:80"), client("[fe80::1%1]:81"));
        // Other addresses mean the same on every link.
        assert_eq!(client("[2001:db8::1%1]:80"), client("[2001:db8::1%2]:80"));
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rules = rate(RateLimit::reject(10).burst(3));
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        let mut admitted = |millis| addresses.admit(&rules, CLIENT, after(start, millis), 0) == Verdict::Admit;
        assert_eq!([0, 0, 0, 0, 99].map(&mut admitted), [true, true, true, false, false]);
        assert_eq!([100, 100, 200, 250].map(&mut admitted), [true, false, true, false]);
        // A quiet time fills it, up to the burst.
        assert_eq!([5000, 5000, 5000, 5000].map(&mut admitted), [true, true, true, false]);
    }

    #[test]
    fn a_burst_of_none_is_one() {
        let rules = rate(RateLimit::reject(10).burst(0));
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        let mut admitted = |millis| addresses.admit(&rules, CLIENT, after(start, millis), 0) == Verdict::Admit;
        assert_eq!([0, 99, 100, 100].map(&mut admitted), [true, false, true, false]);
    }

    #[test]
    fn no_bucket_is_so_large_that_its_time_cannot_be_told() {
        for burst in [1, 3, u32::MAX] {
            let rules = rate(RateLimit::reject(1).per(Duration::MAX).burst(burst));
            let (mut addresses, now) = (Addresses::default(), Instant::now());
            let admitted = (0..4).filter(|_| addresses.admit(&rules, CLIENT, now, 0) == Verdict::Admit);
            assert_eq!(admitted.count(), burst.min(4) as usize);
            let bucket = rules.rate.as_ref().unwrap();
            assert!(now.checked_add(bucket.tolerance + bucket.interval).is_some());
        }
    }

    #[test]
    fn those_that_wait_for_a_token_get_one_each_in_order() {
        let rules = rate(RateLimit::wait(10).burst(1));
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        let mut admit = |waiting| addresses.admit(&rules, CLIENT, start, waiting);
        assert_eq!(admit(0), Verdict::Admit);
        assert_eq!(admit(0), Verdict::Hold(LimitKind::RatePerAddress, after(start, 100)));
        assert_eq!(admit(1), Verdict::Hold(LimitKind::RatePerAddress, after(start, 200)));
        assert_eq!(admit(2), Verdict::Reject(LimitKind::RatePerAddress));
        // The one that was rejected has taken no token.
        assert_eq!(admit(1), Verdict::Hold(LimitKind::RatePerAddress, after(start, 300)));
    }

    fn one_at_once() -> AddressRules {
        AddressRules {
            at_once: Some(Limit::wait(1)),
            max_waiting: 2,
            ..AddressRules::default()
        }
    }

    #[test]
    fn a_client_is_forgotten_when_its_last_request_is_over() {
        let rules = one_at_once();
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        assert_eq!(addresses.admit(&rules, CLIENT, now, 0), Verdict::Admit);
        assert_eq!(
            addresses.admit(&rules, CLIENT, now, 0),
            Verdict::Hold(LimitKind::PerAddress, now)
        );
        assert!(!addresses.resume(&rules, CLIENT));
        addresses.release(CLIENT, false);
        assert!(addresses.resume(&rules, CLIENT));
        addresses.release(CLIENT, false);
        assert!(addresses.in_use.is_empty());
    }

    #[test]
    fn one_that_goes_while_it_waits_is_forgotten_too() {
        let rules = one_at_once();
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        assert_eq!(addresses.admit(&rules, CLIENT, now, 0), Verdict::Admit);
        let verdict = addresses.admit(&rules, CLIENT, now, 0);
        assert_eq!(verdict, Verdict::Hold(LimitKind::PerAddress, now));
        addresses.release(CLIENT, true);
        addresses.release(CLIENT, false);
        assert!(addresses.in_use.is_empty());
    }

    #[test]
    fn nobody_overtakes_one_that_waits() {
        let rules = one_at_once();
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        assert_eq!(addresses.admit(&rules, CLIENT, now, 0), Verdict::Admit);
        let waits = Verdict::Hold(LimitKind::PerAddress, now);
        assert_eq!(addresses.admit(&rules, CLIENT, now, 0), waits);
        addresses.release(CLIENT, false);
        // Nobody has looked yet who may run.
        assert_eq!(addresses.admit(&rules, CLIENT, now, 1), waits);
    }

    #[test]
    fn over_both_limits_one_waits_for_its_token_too() {
        let rules = AddressRules {
            at_once: Some(Limit::wait(1)),
            ..rate(RateLimit::wait(10).burst(1))
        };
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        assert_eq!(addresses.admit(&rules, CLIENT, start, 0), Verdict::Admit);
        let verdict = addresses.admit(&rules, CLIENT, start, 0);
        assert_eq!(verdict, Verdict::Hold(LimitKind::RatePerAddress, after(start, 100)));
    }

    #[test]
    fn invented_addresses_do_not_cost_memory_without_end() {
        let rules = rate(RateLimit::reject(1));
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        for number in 0..200_000_u32 {
            let client = IpAddr::V4(number.into()).into();
            assert_eq!(addresses.admit(&rules, client, now, 0), Verdict::Admit);
            addresses.release(client, false);
            assert!(addresses.buckets.len() <= Addresses::MOST_BUCKETS);
        }
    }

    /// Has so many others ask once, as told.
    fn fill(addresses: &mut Addresses, rules: &AddressRules, others: usize, now: Instant) {
        for number in 0..others {
            let other = IpAddr::V4(u32::try_from(number).unwrap().into()).into();
            assert_eq!(addresses.admit(rules, other, now, 0), Verdict::Admit);
        }
    }

    #[test]
    fn those_with_a_full_bucket_are_forgotten_before_one_that_came_lately() {
        let rules = rate(RateLimit::reject(1));
        let (mut addresses, start) = (Addresses::default(), Instant::now());
        let lately = after(start, 900);
        assert_eq!(addresses.admit(&rules, CLIENT, lately, 0), Verdict::Admit);
        fill(&mut addresses, &rules, Addresses::MOST_BUCKETS - 1, start);
        let another = IpAddr::V4(u32::MAX.into()).into();
        assert_eq!(addresses.admit(&rules, another, after(start, 1000), 0), Verdict::Admit);
        assert_eq!(addresses.buckets.len(), 2);
        let verdict = addresses.admit(&rules, CLIENT, after(start, 1001), 0);
        assert_eq!(verdict, Verdict::Reject(LimitKind::RatePerAddress));
    }

    #[test]
    fn one_that_is_known_makes_nobody_forgotten() {
        let rules = rate(RateLimit::reject(1).burst(2));
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        fill(&mut addresses, &rules, Addresses::MOST_BUCKETS, now);
        fill(&mut addresses, &rules, 1, now);
        assert_eq!(addresses.buckets.len(), Addresses::MOST_BUCKETS);
    }
}
