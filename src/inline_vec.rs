//! A list that nearly always has one element and is then no larger than that element. Every connection and every user
//! has one; a `SmallVec` would take eight bytes more, for its length.

use std::ops::{Deref, DerefMut};

/// The elements, in the order in which they were added.
#[derive(Debug, Default)]
pub enum InlineVec<T> {
    /// No element.
    #[default]
    Empty,
    /// The usual case.
    One(T),
    /// Boxed, so that the list is no larger than one element.
    Many(Box<Vec<T>>),
}

impl<T> InlineVec<T> {
    /// Adds an element at the end.
    pub fn push(&mut self, element: T) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(element),
            Self::One(first) => Self::Many(Box::new(vec![first, element])),
            Self::Many(mut elements) => {
                elements.push(element);
                Self::Many(elements)
            }
        };
    }

    /// Removes and returns the element at this position, if there is one.
    pub fn remove(&mut self, position: usize) -> Option<T> {
        match self {
            Self::Many(elements) => (position < elements.len()).then(|| elements.remove(position)),
            _ if position > 0 => None,
            _ => match std::mem::take(self) {
                Self::One(one) => Some(one),
                _ => None,
            },
        }
    }
}

impl<T> Deref for InlineVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Empty => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(elements) => elements,
        }
    }
}

impl<T> DerefMut for InlineVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Empty => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(elements) => elements,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_vector(steps in prop::collection::vec(prop::option::of(0..4usize), 0..40)) {
            let (mut list, mut model) = (InlineVec::default(), Vec::new());
            for (number, removed) in steps.into_iter().enumerate() {
                match removed {
                    Some(at) => prop_assert_eq!(list.remove(at), (at < model.len()).then(|| model.remove(at))),
                    None => {
                        list.push(number);
                        model.push(number);
                    }
                }
                list.iter_mut().chain(&mut model).for_each(|element| *element += 1);
                prop_assert_eq!(&*list, model.as_slice());
            }
        }
    }
}
