"""Makers of video files, honest and hostile: `VIDEOS` maps a name to (maker, decision)."""

import io
import struct

import numpy as np

from tests.hostile import images

ACCEPT, REJECT = images.ACCEPT, images.REJECT
_HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"


def film(file_format="mp4", codec="mpeg4", side=64, num=10, *, pixels="yuv420p", **options):
  """`num` flat frames."""
  import av  # Optional; tests that come here skip without it.

  file = io.BytesIO()
  with av.open(file, "w", format=file_format) as container:
    stream = container.add_stream(codec, rate=25, options=options)
    stream.width = stream.height = side
    stream.pix_fmt = pixels
    for i in range(num):
      frame = np.full((side, side, 3), i * 7 % 200 + 20, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode(None))
  return file.getvalue()


def many_streams(num):
  import av

  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as container:
    streams = [container.add_stream("mpeg4", rate=25) for _ in range(num)]
    for stream in streams:
      stream.width = stream.height = 16
      stream.pix_fmt = "yuv420p"
    for stream in streams:
      frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
      container.mux(stream.encode(frame))
      container.mux(stream.encode(None))
  return file.getvalue()


def patched(data, kind, offset, value):
  """The file with a number in the first box of a kind replaced."""
  out = bytearray(data)
  struct.pack_into(">I", out, data.index(kind) + 4 + offset, value)
  return bytes(out)


def box(kind, body):
  return struct.pack(">I4s", 8 + len(body), kind) + body


def reference(path):
  """A MOV whose samples lie in another file: an alias in its data reference."""
  data = film("mov")
  place = data.index(b"dref")
  alias = box(b"alis", bytes(4) + bytes(150) + struct.pack(">hh", 2, len(path)) + path.encode())
  (size,) = struct.unpack_from(">I", data, place - 4)
  inside = data[place + 4 : place + 12] + alias
  padded = inside[: size - 8].ljust(size - 8, b"\0")
  return data[: place + 4] + padded + data[place - 4 + size :]


def fragments(counts):
  """A fragmented MP4 whose fragments claim samples without a byte for each."""
  head = film()
  moofs = b"".join(
    box(
      b"moof",
      box(
        b"traf",
        box(b"tfhd", struct.pack(">II", 0x020000, 1)) + box(b"trun", struct.pack(">II", 0, count)),
      ),
    )
    for count in counts
  )
  return head + moofs


def scans_in_avi(num=10_000):
  """A Motion JPEG whose images say their scan `num` times more."""
  import av

  file = io.BytesIO()
  with av.open(file, "w", format="avi") as container:
    stream = container.add_stream("mjpeg", rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuvj420p"
    for i in range(3):
      frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
      frame.pts = i
      for packet in stream.encode(frame):
        data = bytes(packet)
        scan = data[data.index(b"\xff\xda") : -2]
        more = av.Packet(data[:-2] + scan * num + data[-2:])
        more.stream, more.pts, more.dts = stream, packet.pts, packet.dts
        more.time_base, more.is_keyframe = packet.time_base, True
        container.mux(more)
  return file.getvalue()


VIDEOS = {
  "mp4": (film, ACCEPT),
  "mkv": (lambda: film("matroska"), ACCEPT),
  "webm": (lambda: film("webm", "libvpx"), ACCEPT),
  "avi": (lambda: film("avi"), ACCEPT),
  "mpegts": (lambda: film("mpegts", "mpeg2video"), ACCEPT),
  "mpeg": (lambda: film("mpeg", "mpeg1video"), ACCEPT),
  "gif": (lambda: film("gif", "gif", pixels="rgb8"), ACCEPT),
  "list of files": (lambda: b"ffconcat version 1.0\nfile mp4\n", REJECT),
  "playlist of files": (lambda: _HLS.format("mp4").encode(), REJECT),
  "playlist of addresses": (lambda: _HLS.format("http://127.0.0.1:9/x.ts").encode(), REJECT),
  "session description": (
    lambda: (
      b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
      b"m=video 5000 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
    REJECT,
  ),
  "dash manifest": (
    lambda: b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    REJECT,
  ),
  "image sequence": (lambda: images.rgb("PNG"), REJECT),
  "text on a terminal": (lambda: b"\x1b[1mhello" * 99, REJECT),
  "flv": (lambda: film("flv", "flv"), REJECT),
  "raw h264": (lambda: film("h264", "libx264"), REJECT),
  "mov of another file": (lambda: reference("mp4"), None),
  "mp4 of 8000 x 8000": (lambda: film(side=8000, num=4), REJECT),
  "mkv of 8000 x 8000": (
    lambda: film("matroska", "libx264", 8000, 2, preset="ultrafast"),
    REJECT,
  ),
  "mp4 of 2900 x 2900, 16 references": (
    lambda: film(
      "mp4", "libx264", 2900, 40, preset="ultrafast", **{"x264-params": "ref=16:keyint=99"}
    ),
    ACCEPT,
  ),
  "mp4 of 30000 tiny frames": (lambda: film(side=16, num=30_000), REJECT),
  "mp4 of 2 ** 32 samples": (lambda: patched(film(), b"stsz", 8, 2**32 - 1), REJECT),
  "mp4 of samples of one size, 100 million": (
    lambda: patched(patched(film(), b"stsz", 8, 100_000_000), b"stsz", 4, 1),
    REJECT,
  ),
  "mp4 of a frame that lasts 2 ** 32": (
    lambda: patched(film(), b"stts", 8, 2**32 - 1),
    REJECT,
  ),
  "mp4 of fragments of 2 ** 31": (lambda: fragments([2**31]), REJECT),
  "mp4 of fragments of a million": (lambda: fragments([1_000_000] * 9), REJECT),
  "mov with a packed header": (
    lambda: box(b"ftyp", b"qt  ") + box(b"moov", box(b"cmov", b"")),
    REJECT,
  ),
  "mp4 of a million boxes": (
    lambda: box(b"ftyp", b"isom") + box(b"free", b"") * 1_000_000,
    REJECT,
  ),
  "mp4 of 100000 boxes inside each other": (
    lambda: box(b"ftyp", b"isom") + struct.pack(">I4s", 0, b"moov") * 200_000,
    REJECT,
  ),
  "mp4 of 60 streams": (lambda: many_streams(60), REJECT),
  "mp4 cut": (lambda: film()[:800], REJECT),
  "mkv cut": (lambda: film("matroska")[:300], None),
  "mp4 without frames": (lambda: film(num=0), REJECT),
  "avi of raw pixels": (lambda: film("avi", "rawvideo"), REJECT),
  "mov of png": (lambda: film("mov", "png", pixels="rgb24"), REJECT),
  "avi of an image of 10000 scans": (scans_in_avi, REJECT),
  "avi of images of one scan": (lambda: scans_in_avi(0), ACCEPT),
  "empty": (lambda: b"", REJECT),
}
