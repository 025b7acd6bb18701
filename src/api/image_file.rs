//! PNG files: what the library writes, and pictures to start from.

use std::fs;
use std::io::{self, BufReader};
use std::path::Path;

use super::image::{Format, Image};
use crate::util::error::{Error, Result, Status, bail, error};
use crate::util::file::open;

/// Memory that decoding one file may take besides its pixels: what a damaged or hostile file can ask for.
const DECODER_BYTES: usize = 64 << 20;

impl Image {
    /// Reads a PNG file of any kind. 16-bit values lose their lower half; transparency, colour profiles and texts are
    /// not read.
    ///
    /// # Errors
    /// `NotFound` or `Io` for the file, `Format` for one that is damaged, no PNG or larger than 8192 pixels on a side;
    /// `OutOfMemory`. All name the path.
    pub fn load_png(path: &Path) -> Result<Self> {
        let file = open(path)?;
        Self::decode_png(BufReader::new(file)).map_err(|error| error.context(path.display()))
    }

    fn decode_png(file: impl io::BufRead + io::Seek) -> Result<Self> {
        let damaged = |cause: png::DecodingError| match cause {
            png::DecodingError::IoError(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => {
                error!(Io, "{cause}")
            }
            png::DecodingError::LimitsExceeded => error!(Format, "it takes too much memory to read"),
            cause => error!(Format, "{}", cause.to_string().trim_end_matches('.')),
        };
        let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: DECODER_BYTES });
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
        let (width, height) = decoder.read_header_info().map_err(damaged)?.size();
        if Format::Rgb8.input_size(width, height, 0).is_err() {
            bail!(Format, "a picture of {width}x{height} pixels is too large");
        }
        let mut reader = decoder.read_info().map_err(damaged)?;
        let size = reader.output_buffer_size().unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| error!(OutOfMemory, "no memory for {width}x{height}"))?;
        bytes.resize(size, 0);
        let frame = reader.next_frame(&mut bytes).map_err(damaged)?;
        bytes.truncate(frame.buffer_size());
        let format = match frame.color_type {
            png::ColorType::Grayscale => Format::Gray8,
            png::ColorType::Rgb => Format::Rgb8,
            png::ColorType::Rgba => Format::Rgba8,
            png::ColorType::GrayscaleAlpha => {
                bytes = bytes.as_chunks::<2>().0.iter().map(|[gray, _]| *gray).collect();
                Format::Gray8
            }
            png::ColorType::Indexed => bail!(Internal, "a palette was not expanded"),
        };
        Self::from_pixels(width, height, format, &bytes, 0)
    }

    /// Writes a PNG file whose text chunk `parameters` holds the metadata. A file that is there is replaced.
    ///
    /// # Errors
    /// `NotFound` if the folder does not exist, `Io` if the file cannot be written; both name the path.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let file = self.encode_png().map_err(|cause| error!(Internal, "{}: {cause}", path.display()))?;
        fs::write(path, file).map_err(|cause| file_error(path, &cause))
    }

    fn encode_png(&self) -> std::result::Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width(), self.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let (keyword, text) = ("parameters".to_owned(), self.metadata().to_owned());
        // tEXt is what every reader knows, but it holds Latin-1 only.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels())?;
        writer.finish()?;
        Ok(file)
    }
}

fn file_error(path: &Path, cause: &io::Error) -> Error {
    let missing = cause.kind() == io::ErrorKind::NotFound;
    let status = if missing { Status::NotFound } else { Status::Io };
    Error::new(status, format!("{}: {cause}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn image(metadata: &str) -> Image {
        Image::new(
            2,
            2,
            vec![0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.4, 0.4, 0.4],
            metadata.to_owned(),
        )
        .unwrap()
    }

    /// A file of the given colours and depth.
    fn png_file(width: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
            encoder.set_trns(vec![0, 255]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        file
    }

    fn decode(file: &[u8]) -> Result<Image> {
        Image::decode_png(io::Cursor::new(file))
    }

    #[test]
    fn every_kind_of_png_is_read() {
        use png::BitDepth::{Eight, One, Sixteen};
        use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        for (color, depth, data, expected) in [
            (Rgb, Eight, vec![1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
            (Rgba, Eight, vec![1, 2, 3, 0, 4, 5, 6, 255], [1, 2, 3, 4, 5, 6]),
            (Grayscale, Eight, vec![7, 8], [7, 7, 7, 8, 8, 8]),
            (GrayscaleAlpha, Eight, vec![7, 0, 8, 255], [7, 7, 7, 8, 8, 8]),
            (Grayscale, One, vec![0b0100_0000], [0, 0, 0, 255, 255, 255]),
            (Indexed, One, vec![0b1000_0000], [40, 50, 60, 10, 20, 30]),
            (Rgb, Sixteen, vec![1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0], [1, 2, 3, 4, 5, 6]),
        ] {
            let image = decode(&png_file(2, color, depth, &data)).unwrap();
            assert_eq!((image.width(), image.height()), (2, 1));
            assert_eq!(image.pixels(), expected, "{color:?} {depth:?}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = png_file(64, png::ColorType::Rgb, png::BitDepth::Eight, &[9; 192]);
        for length in 0..file.len() - 16 {
            let error = decode(&file[..length]).err().unwrap_or_else(|| panic!("cut to {length} bytes"));
            assert_eq!(error.status(), Status::Format, "cut to {length} bytes: {error}");
            assert!(!error.message().ends_with('.') && !error.message().contains('\n'), "{error}");
        }
        for i in 0..file.len() {
            let mut broken = file.clone();
            broken[i] ^= 0xff;
            if let Err(error) = decode(&broken) {
                assert_eq!(error.status(), Status::Format, "byte {i}: {error}");
                assert!(!error.message().ends_with('.'), "{error}");
            }
        }
    }

    #[test]
    fn huge_dimensions_take_no_memory() {
        // The header of a picture of 2³¹ - 1 by 2³¹ - 1, and one a pixel too wide.
        for (width, height) in [(0x7fff_ffff_u32, 0x7fff_ffff_u32), (8193, 1)] {
            let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
            file.extend(width.to_be_bytes());
            file.extend(height.to_be_bytes());
            file.extend([8, 2, 0, 0, 0]);
            let checksum = crc32(&file[12..]);
            file.extend(checksum.to_be_bytes());
            file.extend(b"\0\0\0\0IDAT");
            let checksum = crc32(b"IDAT");
            file.extend(checksum.to_be_bytes());
            let error = decode(&file).unwrap_err();
            assert_eq!(error.status(), Status::Format, "{error}");
            assert!(error.message().contains(&format!("{width}x{height}")), "{error}");
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        };
        !bytes.iter().fold(!0, step)
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let path = std::env::temp_dir().join(format!("libdiffusion-{}-again.png", std::process::id()));
        image("Steps: 1").save_png(&path).unwrap();
        let again = Image::load_png(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(again.pixels(), image("").pixels());
        let error = Image::load_png(&path).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().starts_with(&path.display().to_string()), "{error}");
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
