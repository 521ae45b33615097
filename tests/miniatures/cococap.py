"""COCO captions in miniature, in Karpathy's splits."""

from tests.miniatures import images

# {split: [(id, folder, captions)]}.
ROWS = {
    "train": [(57870, "train2014", ["A restaurant has modern wooden tables and chairs.",
                                    "A long restaurant table with rattan chairs.", "a table"]),
              (384029, "train2014", ["A man preparing desserts in a kitchen.", "a kitchen"])],
    "restval": [(522418, "val2014", ["A woman wearing a net on her head cutting a cake. ",
                                     "a cake"])],
    "val": [(184613, "val2014", ["A child holding an umbrella and petting a yak.", "a child"]),
            (318219, "val2014", ["A young boy standing in front of a computer.", "a boy"])],
    "test": [(391895, "val2014", ["A man with a red helmet on a small moped.", "a man"])],
}  # fmt: skip


def make(folder):
  write_karpathy(folder, ROWS)


def write_karpathy(folder, rows):
  listed = []
  for split, images_of in rows.items():
    for i, place, captions in images_of:
      name = f"COCO_{place}_{i:012d}.jpg"
      listed.append(
          {"filepath": place, "sentids": list(range(len(captions))), "filename": name,
           "imgid": len(listed), "split": split, "cocoid": i,
           "sentences": [
               {"tokens": text.lower().split(), "raw": text, "imgid": len(listed), "sentid": k}
               for k, text in enumerate(captions)
           ]}
      )  # fmt: skip
      images.write(folder / place / name, images.jpeg(i))
  images.write(folder / "dataset_coco.json", {"images": listed, "dataset": "coco"})


EXPECTED = {
  "cococap": {
    split: [
      {"image_id": i, "captions": [text.strip() for text in captions]} for i, _, captions in rows
    ]
    for split, rows in ROWS.items()
  }
}
