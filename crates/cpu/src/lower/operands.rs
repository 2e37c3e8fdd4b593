//! How a value lies in memory, and how it is seen or copied so that a kernel can read it.

use engraft_engine::EngineError;
use engraft_kernels::{MapsShape, aliases};

use super::{CHANNELS_LAST, Lowering, natural, natural_or_channels_last};
use crate::call::{At, Call, Maps, Rows, Strided};
use crate::program::Value;
use crate::view::{Place, View};

/// Values of a cache line.
const CACHE_LINE: usize = 16;

impl Lowering<'_> {
    pub(crate) fn dense(&mut self, shape: &[usize], order: &[usize]) -> View {
        self.buffers.push(shape.iter().product());
        View::dense(Place::Buffer(self.buffers.len() - 1), shape, order)
    }

    /// As [`dense`](Self::dense), but rows whose beginnings would share a place of the cache are further apart.
    pub(crate) fn spaced(&mut self, shape: &[usize], order: &[usize]) -> View {
        let mut with_gaps = shape.to_vec();
        if let Some(&innermost) = order.last()
            && shape.iter().product::<usize>() > shape[innermost]
            && aliases(shape[innermost])
        {
            with_gaps[innermost] += CACHE_LINE;
        }
        let view = self.dense(&with_gaps, order);
        View { shape: shape.to_vec(), ..view }
    }

    /// The values of a view in a buffer of their own.
    pub(crate) fn copied(&mut self, view: &View, order: &[usize]) -> View {
        let copy = self.dense(&view.shape, order);
        self.copy(view, &copy);
        copy
    }

    pub(crate) fn copy(&mut self, from: &View, to: &View) {
        let (from, to) = (self.strided(from), self.strided(to));
        self.push(Call::Copy { from, to });
    }

    /// As an operand of any strides.
    pub(crate) fn strided(&self, view: &View) -> Strided {
        let repeated = view.shape.first() == Some(&self.images) && view.strides[0] == 0;
        let has_batch = match view.place {
            Place::Buffer(_) => true,
            Place::Constant(_) => self.images > 1 && repeated,
        };
        let mut of_image = view.clone();
        if has_batch && self.images > 1 {
            of_image.shape[0] /= self.images;
        }
        let image = if has_batch && self.images > 1 { view.strides[0] } else { 0 };
        Strided { at: At { place: view.place, offset: view.offset, image }, view: of_image, has_batch }
    }

    /// A view that lies in rows of its last axis.
    pub(crate) fn as_rows(&self, view: &View) -> Option<Rows> {
        match (&view.shape[..], self.images) {
            // Of each image one value.
            (&[_], 2..) => Some(self.of_rows(view, 1, view.strides[0])),
            (shape, _) => Some(self.of_rows(view, shape.last().copied().unwrap_or(1), view.row_stride()?)),
        }
    }

    /// The pixels of a view that lies channels last, as rows.
    pub(crate) fn as_pixels(&self, view: &View) -> Option<Rows> {
        Some(self.of_rows(view, *view.shape.get(1)?, view.pixel_stride()?))
    }

    pub(crate) fn of_rows(&self, view: &View, columns: usize, stride: usize) -> Rows {
        let rows = view.len() / columns.max(1) / self.images;
        Rows { at: self.at(view, rows * stride), rows, columns, stride }
    }

    pub(crate) fn as_maps(&self, view: &View) -> Option<Maps> {
        let stride = view.pixel_stride()?;
        let &[batch, channels, height, width] = &view.shape[..] else { return None };
        let shape = MapsShape { batch: batch / self.images, height, width, channels };
        Some(Maps { at: self.at(view, shape.pixels() * stride), shape, stride })
    }

    pub(crate) fn at(&self, view: &View, image: usize) -> At {
        At { place: view.place, offset: view.offset, image }
    }

    /// A value as an image that lies channels last, copied if it does not.
    pub(crate) fn maps(&mut self, value: Value) -> Result<Maps, EngineError> {
        let view = self.values[&value].clone();
        self.view_as_maps(view)
    }

    /// As [`maps`](Self::maps), of a view.
    pub(crate) fn view_as_maps(&mut self, view: View) -> Result<Maps, EngineError> {
        self.require(view.shape.len() == 4)?;
        let view = if view.pixel_stride().is_some() { view } else { self.copied(&view, &CHANNELS_LAST) };
        self.as_maps(&view).ok_or_else(|| self.other_shapes())
    }

    /// A value as rows along the last axis of an order of its axes, copied if it does not lie so.
    pub(crate) fn rows(&mut self, value: Value, order: &[usize]) -> Result<Rows, EngineError> {
        let view = self.values[&value].clone();
        self.view_as_rows(view, order)
    }

    /// As [`rows`](Self::rows), of a view.
    pub(crate) fn view_as_rows(&mut self, view: View, order: &[usize]) -> Result<Rows, EngineError> {
        let lies_so = self.as_rows(&view.permuted(order)).is_some();
        let view = if lies_so { view } else { self.copied(&view, order) };
        self.as_rows(&view.permuted(order)).ok_or_else(|| self.other_shapes())
    }

    /// Images as the rows of a product whose weights are in the order of their values.
    pub(crate) fn images_as_rows(&mut self, input: Value, channels: usize) -> Rows {
        let mut view = self.values[&input].clone();
        if view.shape.get(1) != Some(&channels) {
            // Images of other channels, with as many values: seen as the ones that the weights are packed for.
            let pixels = view.shape[1..].iter().product::<usize>() / channels.max(1);
            view = self.reshaped(&view, &[view.shape[0], channels, pixels, 1]);
        }
        let lies_so = view.pixel_stride() == Some(channels);
        let view = if lies_so { view } else { self.copied(&view, &CHANNELS_LAST) };
        let columns = view.shape[1..].iter().product();
        self.of_rows(&view, columns, columns)
    }

    pub(crate) fn reshaped(&mut self, input: &View, shape: &[usize]) -> View {
        if let Some(view) = input.reshaped(shape) {
            return view;
        }
        // Straight into the place that the output would like to have, if that can be seen as the input's shape.
        // Tokens, whose features lie side by side, stay tokens.
        let tokens = input.strides.last() == Some(&1);
        let order = if tokens { natural(shape.len()) } else { natural_or_channels_last(shape.len()) };
        let wanted = View::dense(Place::Buffer(self.buffers.len()), shape, &order);
        if let Some(seen_as_input) = wanted.reshaped(&input.shape) {
            self.buffers.push(wanted.len());
            self.copy(input, &seen_as_input);
            return wanted;
        }
        // A tensor without gaps takes any shape.
        let copy = self.copied(input, &natural(input.shape.len()));
        View::dense(copy.place, shape, &natural(shape.len()))
    }
}
