"""The C of convolutions by events: the sums of `event_source` over patches of a map of bits.

A convolution is a Linear on patches: an output pixel reads the inputs under its kernel, tap by tap.
A map holds the channels of a pixel as whole words of bits, so that a patch is put together word by
word; it is made for a few rows at a time, which stay in a near cache, and never kept. A pixel
outside of the map has no events.
"""

from snncompile.kernels.event_source import SOURCE as SUMS

SOURCE = (
    SUMS
    + r"""
typedef __typeof__(__builtin_choose_expr(sizeof(real_t) == 4, (uint32_t)0, (uint64_t)0)) lane_t;

/* A map, a kernel that moves over it, and the map it makes; words are those of a pixel. */
typedef struct {
  int64_t height, width, words, taps_y, taps_x, stride_y, stride_x, padding_y, padding_x,
      dilation_y, dilation_x, out_height, out_width;
} map_t;

static int64_t patch_words(const map_t *m) { return m->taps_y * m->taps_x * m->words; }

/* The patches of the output pixels [first, first + rows). */
static void cut(const uint64_t *bits, const map_t *m, int64_t first, int64_t rows, uint64_t *to) {
  for (int64_t r = first; r < first + rows; r++) {
    const int64_t line = r / m->out_width, n = line / m->out_height;
    const int64_t top = line % m->out_height * m->stride_y - m->padding_y;
    const int64_t left = r % m->out_width * m->stride_x - m->padding_x;
    for (int64_t i = 0; i < m->taps_y; i++) {
      const int64_t y = top + i * m->dilation_y;
      const int inside = y >= 0 && y < m->height;
      const uint64_t *from = bits + (n * m->height + y) * m->width * m->words;
      for (int64_t j = 0; j < m->taps_x; j++) {
        const int64_t x = left + j * m->dilation_x;
        const int seen = inside && x >= 0 && x < m->width;
        for (int64_t w = 0; w < m->words; w++) *to++ = seen ? from[x * m->words + w] : 0;
      }
    }
  }
}

/* The output pixels [first, last); `image` is how many an image has, or 0 for channels-last. */
int convolve(PARAMETERS) {
  const uint64_t *bits = given[0].p;
  const map_t *m = given[1].p;
  const int64_t inputs = 64 * patch_words(m);
  const product_t p = {given[2].p, given[3].p, (real_t)given[4].x, given[5].n, inputs, given[6].n,
                       given[7].p};
  const space_t s = span_space(inputs);
  uint64_t *patches = malloc((size_t)(SPAN * inputs / 8));
  const int short_of = lacks(s) || !patches;
  for (int64_t r = first; r < last && !short_of; r += SPAN) {
    const int64_t rows = least(SPAN, last - r);
    cut(bits, m, r, rows, patches);
    add_span(&p, (const uint8_t *)patches, r, rows, s);
  }
  leave(s);
  free(patches);
  return short_of;
}

/* The gradient of the weight, of outputs in the panels [first, last); `active` ones in the map. */
int differentiate(PARAMETERS) {
  const uint64_t *bits = given[0].p;
  const int64_t active = given[1].n, rows = given[5].n, outputs = given[6].n;
  const map_t *m = given[2].p;
  const real_t *gradient = given[3].p, size = (real_t)given[4].x;
  real_t *out = given[7].p;
  const int64_t words = patch_words(m), items = 64 * words + 1;
  const space_t s =
      space(active * m->taps_y * m->taps_x, items * blocks_of(rows) + 1, 64 * words * WIDTH);
  uint64_t *patches = malloc((size_t)(DEPTH * words * 8));
  int short_of = lacks(s) || !patches;
  uint32_t n = 0;
  for (int64_t b = 0; b < blocks_of(rows) && !short_of; b++) {
    const int64_t here = least(DEPTH, rows - b * DEPTH);
    cut(bits, m, b * DEPTH, here, patches);
    n = list_inputs((const uint8_t *)patches, here, 8 * words, n, s.event, s.at + b * items);
  }
  if (!short_of)
    short_of = add_gradient(first, last, s, gradient, size, rows, outputs, 64 * words, out);
  leave(s);
  free(patches);
  return short_of;
}

#define PIXELS 1024

/* The bits of images [first, last) of planes, a word's half at a time; sizes as `pack` has them. */
int pack_planes(PARAMETERS) {
  const real_t *x = given[0].p;
  const int64_t channels = given[1].n, pixels = given[2].n;
  uint8_t *bits = given[3].p;
  double *sizes = given[4].p;
  const int64_t halves = (channels + 63) / 64 * 2;
  for (int64_t n = first; n < last; n++) {
    const real_t *image = x + n * channels * pixels;
    real_t size = 0;
    lane_t odd = 0;
    for (int64_t i = 0; i < channels * pixels && size == 0; i++) size = image[i];
    for (int64_t p = 0; p < pixels; p += PIXELS) {
      const int64_t here = least(PIXELS, pixels - p);
      for (int64_t h = 0; h < halves; h++) {
        lane_t half[PIXELS] = {0};
        for (int64_t c = 32 * h; c < least(32 * h + 32, channels); c++) {
          const real_t *from = image + c * pixels + p;
          const lane_t bit = (lane_t)1 << c % 32;
          for (int64_t i = 0; i < here; i++) {
            const lane_t fires = -(lane_t)(from[i] != 0);
            half[i] |= fires & bit;
            odd |= fires & (lane_t)(from[i] != size);
          }
        }
        for (int64_t i = 0; i < here; i++) {
          const uint32_t found = (uint32_t)half[i];
          memcpy(bits + ((n * pixels + p + i) * halves + h) * 4, &found, 4);
        }
      }
    }
    sizes[n] = odd || !isfinite(size) ? NAN : size;
  }
  return 0;
}
"""
)
