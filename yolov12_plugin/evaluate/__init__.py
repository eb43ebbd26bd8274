"""AP on ground truth in COCO's format (Table 6)."""
