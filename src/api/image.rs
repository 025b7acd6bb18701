//! A picture, and its ways into the library and out of it. Files are read and written in `image_file`.

use std::sync::Arc;

use crate::pipeline::request::Picture;
use crate::util::error::{Result, bail, error};
use crate::util::limits;

/// How a pixel lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Three bytes.
    Rgb8,
    /// Four bytes, alpha 255; alpha is not read.
    Rgba8,
    /// Four bytes, alpha 255; alpha is not read.
    Bgra8,
    /// Three 32-bit floats in `[0, 1]`, not rounded to bytes.
    RgbF32,
    /// One byte, the mean of red, green and blue; read as all three. For masks.
    Gray8,
}

impl Format {
    /// Bytes of one pixel.
    pub const fn pixel_size(self) -> usize {
        match self {
            Format::Rgb8 => 3,
            Format::Rgba8 | Format::Bgra8 => 4,
            Format::RgbF32 => 12,
            Format::Gray8 => 1,
        }
    }

    /// Bytes that [`Image::from_pixels`] reads.
    ///
    /// # Errors
    /// `InvalidArgument` for a side of 0 or above 8192, or a row that does not fit into `row_stride`.
    pub fn input_size(self, width: u32, height: u32, row_stride: usize) -> Result<usize> {
        for (name, side) in [("width", width), ("height", height)] {
            if side == 0 || side > limits::IMAGE_SIDE {
                bail!(InvalidArgument, "{name} is {side}; it must be from 1 to {}", limits::IMAGE_SIDE);
            }
        }
        size_of_rows(width, height, self, row_stride)
    }
}

/// A picture, immutable. Cheap to clone; clones share the pixels. Depends on no other object.
#[derive(Debug, Clone)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    picture: Picture,
    bytes: Vec<u8>,
    metadata: String,
}

impl Image {
    /// A picture from interleaved RGB rows, top row first. Values outside `[0, 1]` are clamped; the bytes are
    /// rounded as diffusers does, `(x * 255).round()` with ties to even.
    pub(super) fn new(width: u32, height: u32, mut floats: Vec<f32>, metadata: String) -> Result<Self> {
        let length = width as usize * height as usize * 3;
        if width == 0 || height == 0 || floats.len() != length {
            bail!(Internal, "an image of {width}x{height} cannot have {} values", floats.len());
        }
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(length)
            .map_err(|_| error!(OutOfMemory, "no memory for an image of {width}x{height}"))?;
        for value in &mut floats {
            *value = value.clamp(0.0, 1.0);
            bytes.push((*value * 255.0).round_ties_even() as u8);
        }
        let picture = Picture { width, height, rgb: Arc::new(floats) };
        Ok(Self(Arc::new(Inner { picture, bytes, metadata })))
    }

    /// A picture from a program's own pixels: `height` rows of `width` pixels, `row_stride` bytes apart (0 = without
    /// gaps), top row first. Floats outside `[0, 1]` are clamped.
    ///
    /// # Errors
    /// `InvalidArgument` for a side of 0 or above 8192, `pixels` shorter than [`Format::input_size`] says, or a float that is
    /// not finite; `OutOfMemory`.
    pub fn from_pixels(
        width: u32,
        height: u32,
        format: Format,
        pixels: &[u8],
        row_stride: usize,
    ) -> Result<Self> {
        let needed = format.input_size(width, height, row_stride)?;
        if pixels.len() < needed {
            bail!(InvalidArgument, "pixels: {} bytes are less than the {needed} needed", pixels.len());
        }
        let row = width as usize * format.pixel_size();
        let stride = if row_stride == 0 { row } else { row_stride };
        let mut floats = Vec::new();
        floats
            .try_reserve_exact(width as usize * height as usize * 3)
            .map_err(|_| error!(OutOfMemory, "no memory for an image of {width}x{height}"))?;
        let float = |byte: &u8| f32::from(*byte) / 255.0;
        for row in pixels.chunks(stride).take(height as usize).map(|chunk| &chunk[..row]) {
            match format {
                Format::Rgb8 => floats.extend(row.iter().map(float)),
                Format::Rgba8 => {
                    floats
                        .extend(row.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [r, g, b].map(float)));
                }
                Format::Bgra8 => {
                    floats
                        .extend(row.as_chunks::<4>().0.iter().flat_map(|[b, g, r, _]| [r, g, b].map(float)));
                }
                Format::RgbF32 => {
                    floats.extend(row.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)));
                }
                Format::Gray8 => floats.extend(row.iter().flat_map(|gray| [float(gray); 3])),
            }
        }
        if let Some(i) = floats.iter().position(|x| !x.is_finite()) {
            bail!(InvalidArgument, "pixels: value {i} is {}, not a finite number", floats[i]);
        }
        Self::new(width, height, floats, String::new())
    }

    /// What a request takes.
    pub(super) fn picture(&self) -> &Picture {
        &self.0.picture
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.0.picture.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.0.picture.height
    }

    /// RGB bytes, rows without gaps, top row first.
    pub fn pixels(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What made the image: prompt and settings, as other tools write them.
    pub fn metadata(&self) -> &str {
        &self.0.metadata
    }

    /// Bytes that [`Image::copy`] needs for rows `row_stride` bytes apart (0 = without gaps).
    ///
    /// # Errors
    /// `InvalidArgument` if a row does not fit into `row_stride`.
    pub fn copy_size(&self, row_stride: usize, format: Format) -> Result<usize> {
        size_of_rows(self.width(), self.height(), format, row_stride)
    }

    /// Copies the picture to `dst`, rows `row_stride` bytes apart (0 = without gaps), the bottom row first if
    /// `flip_y`. Bytes between rows are left as they are.
    ///
    /// # Errors
    /// As [`Image::copy_size`]; `BufferTooSmall` if `dst` is shorter than that.
    pub fn copy(&self, dst: &mut [u8], row_stride: usize, format: Format, flip_y: bool) -> Result<()> {
        let needed = self.copy_size(row_stride, format)?;
        if dst.len() < needed {
            bail!(BufferTooSmall, "dst_size: {} bytes are less than the {needed} needed", dst.len());
        }
        let row = self.width() as usize * format.pixel_size();
        let stride = if row_stride == 0 { row } else { row_stride };
        let height = self.height() as usize;
        for (y, target) in dst.chunks_mut(stride).take(height).enumerate() {
            self.copy_row(if flip_y { height - 1 - y } else { y }, &mut target[..row], format);
        }
        Ok(())
    }

    fn copy_row(&self, y: usize, target: &mut [u8], format: Format) {
        let values = self.width() as usize * 3;
        let range = y * values..(y + 1) * values;
        let bytes = &self.0.bytes[range.clone()];
        let pixels = target.chunks_exact_mut(format.pixel_size()).zip(bytes.chunks_exact(3));
        match format {
            Format::Rgb8 => target.copy_from_slice(bytes),
            Format::Rgba8 => {
                pixels.for_each(|(out, rgb)| out.copy_from_slice(&[rgb[0], rgb[1], rgb[2], 255]));
            }
            Format::Bgra8 => {
                pixels.for_each(|(out, rgb)| out.copy_from_slice(&[rgb[2], rgb[1], rgb[0], 255]));
            }
            Format::RgbF32 => {
                let floats = self.0.picture.rgb[range].iter();
                target.chunks_exact_mut(4).zip(floats).for_each(|(out, x)| {
                    out.copy_from_slice(&x.to_ne_bytes());
                });
            }
            Format::Gray8 => {
                let floats = self.0.picture.rgb[range].as_chunks::<3>().0;
                target.iter_mut().zip(floats).for_each(|(out, [r, g, b])| {
                    *out = ((r + g + b) / 3.0 * 255.0).round_ties_even() as u8;
                });
            }
        }
    }
}

fn size_of_rows(width: u32, height: u32, format: Format, row_stride: usize) -> Result<usize> {
    let row = width as usize * format.pixel_size();
    let stride = if row_stride == 0 { row } else { row_stride };
    if stride < row {
        bail!(InvalidArgument, "row_stride: {stride} is less than the {row} bytes of a row");
    }
    (height as usize - 1)
        .checked_mul(stride)
        .and_then(|size| size.checked_add(row))
        .filter(|size| *size <= isize::MAX as usize)
        .ok_or_else(|| error!(InvalidArgument, "row_stride: {stride} is too large"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    /// Two by two: dark red, green / blue, a grey between two bytes.
    fn image(metadata: &str) -> Image {
        let grey = 100.4 / 255.0;
        let floats = vec![0.25, 0.0, 0.0, 0.0, 1.0, 0.0, -0.5, 0.0, 1.5, grey, grey, grey];
        Image::new(2, 2, floats, metadata.to_owned()).unwrap()
    }

    #[test]
    fn bytes_are_clamped_and_rounded() {
        // 0.25 * 255 = 63.75
        assert_eq!(image("").pixels(), [64, 0, 0, 0, 255, 0, 0, 0, 255, 100, 100, 100]);
        let halves = Image::new(1, 1, vec![0.5 / 255.0, 1.5 / 255.0, 2.5 / 255.0], String::new()).unwrap();
        // numpy.round: ties go to the even neighbour.
        assert_eq!(halves.pixels(), [0, 2, 2]);
    }

    #[test]
    fn copies_come_in_every_format() {
        let image = image("");
        let mut rgba = [0; 16];
        image.copy(&mut rgba, 0, Format::Rgba8, false).unwrap();
        assert_eq!(rgba, [64, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 100, 100, 100, 255]);
        let mut bgra = [0; 16];
        image.copy(&mut bgra, 0, Format::Bgra8, false).unwrap();
        assert_eq!(bgra, [0, 0, 64, 255, 0, 255, 0, 255, 255, 0, 0, 255, 100, 100, 100, 255]);
        let mut floats = [0; 48];
        image.copy(&mut floats, 0, Format::RgbF32, false).unwrap();
        let floats: Vec<f32> =
            floats.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        let grey = 100.4 / 255.0;
        assert_eq!(floats, [0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, grey, grey, grey]);
    }

    #[test]
    fn rows_keep_their_distance_and_can_be_turned_over() {
        let image = image("");
        let mut bytes = [7; 14];
        image.copy(&mut bytes, 8, Format::Rgb8, false).unwrap();
        assert_eq!(bytes, [64, 0, 0, 0, 255, 0, 7, 7, 0, 0, 255, 100, 100, 100]);
        let mut bytes = [7; 20];
        image.copy(&mut bytes, 8, Format::Rgb8, true).unwrap();
        assert_eq!(bytes, [0, 0, 255, 100, 100, 100, 7, 7, 64, 0, 0, 0, 255, 0, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn a_buffer_that_is_too_small_stays_as_it_is() {
        let image = image("");
        let mut bytes = [7; 13];
        let error = image.copy(&mut bytes, 8, Format::Rgb8, false).unwrap_err();
        assert_eq!(error.status(), Status::BufferTooSmall);
        assert_eq!(error.message(), "dst_size: 13 bytes are less than the 14 needed");
        assert_eq!(bytes, [7; 13]);
        for stride in [5, usize::MAX] {
            let error = image.copy(&mut bytes, stride, Format::Rgb8, false).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument, "{stride}");
        }
    }

    #[test]
    fn pixels_come_in_every_format() {
        let rgb = [64, 0, 0, 0, 255, 0, 0, 0, 255, 100, 100, 100];
        let gapped = [64, 0, 0, 0, 255, 0, 7, 7, 0, 0, 255, 100, 100, 100];
        let rgba = [64, 0, 0, 1, 0, 255, 0, 2, 0, 0, 255, 3, 100, 100, 100, 4];
        let bgra = [0, 0, 64, 1, 0, 255, 0, 2, 255, 0, 0, 3, 100, 100, 100, 4];
        let read = |format, pixels: &[u8], stride| Image::from_pixels(2, 2, format, pixels, stride).unwrap();
        assert_eq!(read(Format::Rgb8, &rgb, 0).pixels(), rgb);
        assert_eq!(read(Format::Rgb8, &gapped, 8).pixels(), rgb);
        assert_eq!(read(Format::Rgba8, &rgba, 0).pixels(), rgb);
        assert_eq!(read(Format::Bgra8, &bgra, 0).pixels(), rgb);
        let gray = read(Format::Gray8, &[0, 1, 128, 255], 0);
        assert_eq!(gray.pixels(), [0, 0, 0, 1, 1, 1, 128, 128, 128, 255, 255, 255]);
        let mut bytes = [0; 4];
        gray.copy(&mut bytes, 0, Format::Gray8, false).unwrap();
        assert_eq!(bytes, [0, 1, 128, 255]);
        let floats: Vec<u8> = [0.25f32, -1.0, 2.0].iter().flat_map(|x| x.to_ne_bytes()).collect();
        let image = Image::from_pixels(1, 1, Format::RgbF32, &floats, 0).unwrap();
        assert_eq!(*image.picture().rgb, [0.25, 0.0, 1.0]);
        // The mean of 64 and twice 0, the mean of one 255 and twice 0.
        let mut bytes = [0; 4];
        read(Format::Rgb8, &rgb, 0).copy(&mut bytes, 0, Format::Gray8, false).unwrap();
        assert_eq!(bytes, [21, 85, 85, 100]);
    }

    #[test]
    fn pixels_that_make_no_image_are_refused() {
        let refused = |width, height, format, pixels: &[u8], stride, culprit: &str| {
            let error = Image::from_pixels(width, height, format, pixels, stride).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument, "{culprit}");
            assert!(error.message().contains(culprit), "{error} should name {culprit}");
        };
        refused(0, 1, Format::Rgb8, &[0; 12], 0, "width is 0");
        refused(1, 8193, Format::Rgb8, &[0; 12], 0, "height is 8193");
        refused(u32::MAX, u32::MAX, Format::RgbF32, &[0; 12], usize::MAX, "width is 4294967295");
        refused(2, 2, Format::Rgb8, &[0; 11], 0, "12 needed");
        refused(2, 2, Format::Rgb8, &[0; 12], 5, "row_stride");
        refused(2, 2, Format::Rgb8, &[0; 12], usize::MAX, "row_stride");
        let nan: Vec<u8> = [0.0, f32::NAN, 0.0].iter().flat_map(|x: &f32| x.to_ne_bytes()).collect();
        refused(1, 1, Format::RgbF32, &nan, 0, "value 1 is NaN");
    }
}
