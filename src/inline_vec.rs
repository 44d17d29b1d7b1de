//! A list that nearly always has one element, and is then no larger than that element: there is one for each connection and for each
//! user, and the length that a `SmallVec` keeps beside its elements would be eight bytes of each.

use std::ops::{Deref, DerefMut};

/// The elements, in the order they were added.
#[derive(Debug, Default)]
pub enum InlineVec<T> {
    /// No element.
    #[default]
    Empty,
    /// The usual case.
    One(T),
    /// Boxed, so that it fits where the one stands.
    Many(Box<Vec<T>>),
}

impl<T> InlineVec<T> {
    /// Adds one at the end.
    pub fn push(&mut self, element: T) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(element),
            Self::One(first) => Self::Many(Box::new(vec![first, element])),
            Self::Many(mut more) => {
                more.push(element);
                Self::Many(more)
            }
        };
    }

    /// Takes one out; `None` if there are not so many.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        match self {
            Self::Many(more) => (at < more.len()).then(|| more.remove(at)),
            _ if at > 0 => None,
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
            Self::Many(more) => more,
        }
    }
}

impl<T> DerefMut for InlineVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Empty => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(more) => more,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_vector_is(steps in prop::collection::vec(prop::option::of(0..4usize), 0..40)) {
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
