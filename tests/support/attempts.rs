//! Attempts that a busy machine may spoil: it puts off a thread or a process until some time is over, but not each
//! time.

/// What the first attempt gives that is in time.
#[track_caller]
pub fn first_in_time<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    (0..10).find_map(|_| attempt()).expect("one attempt is in time")
}

/// Attempts something until it is in time. Returns how many attempts were not.
#[track_caller]
pub fn until_in_time(mut attempt: impl FnMut() -> bool) -> usize {
    let mut late = 0;
    first_in_time(|| {
        let in_time = attempt();
        late += usize::from(!in_time);
        in_time.then_some(())
    });
    late
}
