//! A store whose values keep their places, which are used again.

/// Values, each at an index of its own as long as it is there. Faster than a map: nothing is hashed.
#[derive(Debug)]
pub(super) struct Slab<V> {
    places: Vec<Option<V>>,
    free: Vec<usize>,
}

impl<V> Default for Slab<V> {
    fn default() -> Self {
        Slab {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<V> Slab<V> {
    /// Returns where it is.
    pub(super) fn insert(&mut self, value: V) -> usize {
        if let Some(index) = self.free.pop() {
            self.places[index] = Some(value);
            return index;
        }
        self.places.push(Some(value));
        self.places.len() - 1
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.places.iter_mut().flatten()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut V> {
        self.places.get_mut(index)?.as_mut()
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<V> {
        let value = self.places.get_mut(index)?.take()?;
        self.free.push(index);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        let [first, second] = ["first", "second"].map(|value| slab.insert(value));
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.insert("third"), first);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!(slab.iter().collect::<Vec<_>>(), [&"third", &"second"]);
    }
}
