"""Small videos for the miniatures."""

import io

import numpy as np


def mp4(num_frames=6, *, rate=10, size=(64, 48)):
  """The bytes of a video, width x height pixels; frame i is grey of level 10 (i + 1)."""
  import av  # Optional; tests that come here skip without it.

  file = io.BytesIO()
  with av.open(file, "w", format="mp4") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    for i in range(num_frames):
      pixels = np.full((size[1], size[0], 3), 10 * (i + 1), np.uint8)
      for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
        container.mux(packet)
    for packet in stream.encode():
      container.mux(packet)
  return file.getvalue()
