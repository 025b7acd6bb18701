//! A finished picture and the ways out of the library.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::util::error::{Error, Result, Status, bail, error};

/// How [`Image::copy`] lays out a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Three bytes.
    Rgb8,
    /// Four bytes, alpha 255.
    Rgba8,
    /// Four bytes, alpha 255.
    Bgra8,
    /// Three 32-bit floats in `[0, 1]`, not rounded to bytes.
    RgbF32,
}

impl Format {
    /// Bytes of one pixel.
    pub const fn pixel_size(self) -> usize {
        match self {
            Format::Rgb8 => 3,
            Format::Rgba8 | Format::Bgra8 => 4,
            Format::RgbF32 => 12,
        }
    }
}

/// A picture, immutable. Cheap to clone; clones share the pixels. Depends on no other object.
#[derive(Debug, Clone)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    width: u32,
    height: u32,
    floats: Vec<f32>,
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
        Ok(Self(Arc::new(Inner { width, height, floats, bytes, metadata })))
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.0.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.0.height
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
        let row = self.0.width as usize * format.pixel_size();
        let stride = if row_stride == 0 { row } else { row_stride };
        if stride < row {
            bail!(InvalidArgument, "row_stride: {stride} is less than the {row} bytes of a row");
        }
        (self.0.height as usize - 1)
            .checked_mul(stride)
            .and_then(|size| size.checked_add(row))
            .ok_or_else(|| error!(InvalidArgument, "row_stride: {stride} is too large"))
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
        let row = self.0.width as usize * format.pixel_size();
        let stride = if row_stride == 0 { row } else { row_stride };
        let height = self.0.height as usize;
        for (y, target) in dst.chunks_mut(stride).take(height).enumerate() {
            self.copy_row(if flip_y { height - 1 - y } else { y }, &mut target[..row], format);
        }
        Ok(())
    }

    fn copy_row(&self, y: usize, target: &mut [u8], format: Format) {
        let values = self.0.width as usize * 3;
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
                let floats = self.0.floats[range].iter();
                target.chunks_exact_mut(4).zip(floats).for_each(|(out, x)| {
                    out.copy_from_slice(&x.to_ne_bytes());
                });
            }
        }
    }

    /// Writes a PNG file whose text chunk `parameters` holds the metadata. A file that is there is replaced.
    ///
    /// # Errors
    /// `NotFound` if the folder does not exist, `Io` if the file cannot be written; both name the path.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let file = self.encode_png().map_err(|cause| error!(Internal, "{}: {cause}", path.display()))?;
        fs::write(path, file).map_err(|cause| {
            let missing = cause.kind() == io::ErrorKind::NotFound;
            let status = if missing { Status::NotFound } else { Status::Io };
            Error::new(status, format!("{}: {cause}", path.display()))
        })
    }

    fn encode_png(&self) -> std::result::Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.0.width, self.0.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let (keyword, text) = ("parameters".to_owned(), self.0.metadata.clone());
        // tEXt is what every reader knows, but it holds Latin-1 only.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.0.bytes)?;
        writer.finish()?;
        Ok(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

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
    fn a_png_holds_the_pixels_and_the_metadata() {
        // Latin-1 goes into tEXt, anything else into iTXt.
        for (text, chunk) in [("caf\u{e9}\nSteps: 1", "tEXt"), ("\u{732b}\nSteps: 1", "iTXt")] {
            let image = image(text);
            let path = std::env::temp_dir().join(format!("libdiffusion-{}-{chunk}.png", std::process::id()));
            image.save_png(&path).unwrap();
            let file = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let mut reader = png::Decoder::new(io::Cursor::new(&file)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, image.pixels());
            let info = reader.info();
            let latin1 = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
            let utf8 = info.utf8_text.iter().map(|c| (c.keyword.clone(), c.get_text().unwrap()));
            let texts: Vec<_> = if chunk == "tEXt" { latin1.collect() } else { utf8.collect() };
            assert_eq!(texts, [("parameters".to_owned(), text.to_owned())], "{chunk}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let path = std::env::temp_dir().join("no such folder/x.png");
        let error = image("").save_png(&path).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().starts_with(&path.display().to_string()), "{error}");
        assert_eq!(image("").save_png(&std::env::temp_dir()).unwrap_err().status(), Status::Io);
    }
}
