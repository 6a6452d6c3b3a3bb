"""The C of sums over events: rows of a matrix added up at the places of ones.

Both products of a synapse with spikes are such sums. Forward, an output row is the sum of those
rows of the transposed weight whose inputs are active; backward, a row of the transposed weight
gradient is the sum of those rows of the output's gradient at which its input was active. The matrix
is cut into panels of WIDTH columns, which are added up in registers, and these into blocks of
DEPTH rows, which stay in a near cache. Within a block an event is one byte.

Every sum has the order of its events, whatever the number of threads.
"""

from snncompile.kernels.transpose_source import SOURCE as TRANSPOSE

SOURCE = (
    TRANSPOSE
    + r"""
#define WIDTH (8 * LANES)
#define DEPTH 128
#define SPAN 512
#define TILE 16
#define AHEAD 16
#define LINE (64 / (int64_t)sizeof(real_t))

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* How many panels there are, which are about equally wide. */
static int64_t panel_count(int64_t columns) { return (columns + WIDTH - 1) / WIDTH; }

/* Where a panel begins, in columns that are padded to whole vectors. */
static int64_t begins(int64_t panel, int64_t columns) {
  return (columns + LANES - 1) / LANES * panel / panel_count(columns) * LANES;
}

static uint64_t word(const uint8_t *bits, int64_t left) {
  uint64_t found = 0;
  memcpy(&found, bits, (size_t)least(left, 8));
  return found;
}

static int64_t count(const uint8_t *bits, int64_t bytes) {
  int64_t n = 0;
  for (int64_t j = 0; j < bytes; j += 8) n += __builtin_popcountll(word(bits + j, bytes - j));
  return n;
}

#define EACH(bits, bytes, k)                                                              \
  for (int64_t j = 0; j < (bytes); j += 8)                                                \
    for (uint64_t w = word((bits) + j, (bytes) - j); w; w &= w - 1)                       \
      for (int64_t k = 8 * j + __builtin_ctzll(w), once = 1; once; once = 0)

/* sum[i] = from[i] + the rows of a panel at the events of item i */
#define ADD_ROWS(v)                                                                       \
  static void add_rows##v(const uint8_t *event, const uint32_t *at, int64_t items,        \
                          const real_t *panel, const real_t *from, int64_t step,          \
                          real_t *sum) {                                                  \
    for (int64_t i = 0; i < items; i++, from += step, sum += v * LANES) {                 \
      vec total[v];                                                                       \
      for (int j = 0; j < v; j++) total[j] = *(const vec *)(from + j * LANES);            \
      for (uint32_t e = at[i]; e < at[i + 1]; e++) {                                      \
        const real_t *row = panel + (int64_t)event[e] * v * LANES;                        \
        for (int j = 0; j < v; j++) total[j] += *(const vec *)(row + j * LANES);          \
      }                                                                                   \
      for (int j = 0; j < v; j++) *(vec *)(sum + j * LANES) = total[j];                   \
    }                                                                                     \
  }
ADD_ROWS(1) ADD_ROWS(2) ADD_ROWS(3) ADD_ROWS(4) ADD_ROWS(5) ADD_ROWS(6) ADD_ROWS(7) ADD_ROWS(8)

static const real_t zeros[WIDTH];

static void add_rows(int64_t v, const uint8_t *event, const uint32_t *at, int64_t items,
                     const real_t *panel, int64_t block, real_t *sum) {
  const real_t *from = block ? sum : zeros;
  const int64_t step = block ? v * LANES : 0;
  switch (v) {
#define WIDE(v) case v: add_rows##v(event, at, items, panel, from, step, sum); break;
    WIDE(1) WIDE(2) WIDE(3) WIDE(4) WIDE(5) WIDE(6) WIDE(7) WIDE(8)
  }
}

/* The events of every row, in the inputs of one block. */
static uint32_t list_rows(const uint8_t *bits, int64_t rows, int64_t stride, int64_t bytes,
                          uint32_t n, uint8_t *event, uint32_t *at) {
  for (int64_t i = 0; i < rows; i++) {
    at[i] = n;
    EACH(bits + i * stride, bytes, k) event[n++] = (uint8_t)k;
  }
  at[rows] = n;
  return n;
}

/* The events of every input, in the rows of one block. */
static uint32_t list_inputs(const uint8_t *bits, int64_t rows, int64_t stride, uint32_t n,
                            uint8_t *event, uint32_t *at) {
  const int64_t inputs = 8 * stride;
  memset(at, 0, (size_t)(inputs + 1) * sizeof *at);
  for (int64_t i = 0; i < rows; i++) EACH(bits + i * stride, stride, k) at[k]++;
  for (int64_t k = 0; k < inputs; k++) at[k] = n += at[k];
  at[inputs] = n;
  for (int64_t i = rows; i-- > 0;)
    EACH(bits + i * stride, stride, k) event[--at[k]] = (uint8_t)i;
  return n;
}

/* The weight [outputs, inputs], transposed and cut into the panels [first, last). */
int panels(PARAMETERS) {
  const real_t *weight = given[0].p;
  const int64_t outputs = given[1].n, inputs = given[2].n;
  real_t *to = given[3].p;
  for (int64_t p = first; p < last; p++) {
    const int64_t n = begins(p, outputs), width = begins(p + 1, outputs) - n;
    const int64_t used = least(width, outputs - n);
    real_t *panel = to + n * inputs;
    transpose(weight + n * inputs, used, inputs, inputs, 1, panel, width);
    for (int64_t k = 0; k < inputs && used < width; k++)
      memset(panel + k * width + used, 0, (size_t)(width - used) * sizeof *panel);
  }
  return 0;
}

/* A product: out = bias + size * sums over the panels. The columns of a row lie side by side, or,
   where an image has so many rows (which is not 0), those of an image in planes. */
typedef struct {
  const real_t *panels, *bias;
  real_t size;
  int64_t outputs, inputs, image;
  real_t *out;
} product_t;

/* What adding up SPAN rows takes. */
typedef struct { uint8_t *event; uint32_t *at; real_t *sum; } space_t;

static int lacks(space_t s) { return !s.event || !s.at || !s.sum; }
static void leave(space_t s) { free(s.event); free(s.at); free(s.sum); }

static space_t space(int64_t events, int64_t items, int64_t sums) {
  return (space_t){malloc((size_t)events + 1), malloc((size_t)items * sizeof(uint32_t)),
                   aligned_alloc(64, ((size_t)sums * sizeof(real_t) + 63) / 64 * 64)};
}

static int64_t blocks_of(int64_t inputs) { return (inputs + DEPTH - 1) / DEPTH; }

static space_t span_space(int64_t inputs) {
  return space(SPAN * inputs, (SPAN + 1) * blocks_of(inputs) + 1, SPAN * WIDTH);
}

/* Columns [c, c + used) of the rows [r, r + rows) from their sums. */
static void write_rows(const product_t *p, int64_t r, int64_t rows, int64_t c, int64_t used,
                       int64_t width, const real_t *sum) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < used; j++)
      p->out[(r + i) * p->outputs + c + j] = p->size * sum[i * width + j] + p->bias[c + j];
}

static void write_planes(const product_t *p, int64_t r, int64_t rows, int64_t c, int64_t used,
                         int64_t width, const real_t *sum) {
  for (int64_t i = 0, end; i < rows; i = end) {
    const int64_t n = (r + i) / p->image, q = (r + i) % p->image;
    end = i + least(least(TILE, rows - i), p->image - q);
    for (int64_t j = 0; j < used; j++)
      for (int64_t k = i; k < end; k++)
        p->out[(n * p->outputs + c + j) * p->image + q + k - i] =
            p->size * sum[k * width + j] + p->bias[c + j];
  }
}

/* The rows [r, r + rows) of a product, of which these are the bits. */
static void add_span(const product_t *p, const uint8_t *bits, int64_t r, int64_t rows, space_t s) {
  const int64_t stride = (p->inputs + 63) / 64 * 8, blocks = blocks_of(p->inputs);
  uint32_t n = 0;
  for (int64_t b = 0; b < blocks; b++)
    n = list_rows(bits + b * DEPTH / 8, rows, stride, least(DEPTH / 8, stride - b * DEPTH / 8), n,
                  s.event, s.at + b * (SPAN + 1));
  for (int64_t i = 0; i < panel_count(p->outputs); i++) {
    const int64_t c = begins(i, p->outputs), width = begins(i + 1, p->outputs) - c;
    const real_t *panel = p->panels + c * p->inputs;
    for (int64_t b = 0; b < blocks; b++)
      add_rows(width / LANES, s.event, s.at + b * (SPAN + 1), rows, panel + b * DEPTH * width, b,
               s.sum);
    (p->image ? write_planes : write_rows)(p, r, rows, c, least(width, p->outputs - c), width,
                                           s.sum);
  }
}

/* out[r] = bias + size * the columns of the weight at the events of row r, r in [first, last) */
int forward(PARAMETERS) {
  const uint8_t *bits = given[0].p;
  const int64_t inputs = given[5].n, stride = (inputs + 63) / 64 * 8;
  const product_t p = {given[1].p, given[2].p, (real_t)given[3].x, given[4].n, inputs, 0,
                       given[6].p};
  const space_t s = span_space(inputs);
  for (int64_t r = first; r < last && !lacks(s); r += SPAN)
    add_span(&p, bits + r * stride, r, least(SPAN, last - r), s);
  leave(s);
  return lacks(s);
}

/* Panels [first, last) of out[n, k] = size * the sum of gradient[r, n] over the rows in which k is
   active; the events of every block of rows are listed. */
static int add_gradient(int64_t first, int64_t last, space_t s, const real_t *gradient,
                        real_t size, int64_t rows, int64_t outputs, int64_t inputs, real_t *out) {
  const int64_t blocks = blocks_of(rows), items = (inputs + 63) / 64 * 64 + 1;
  real_t *panel = aligned_alloc(64, DEPTH * WIDTH * sizeof *panel);
  if (!panel) return 1;
  for (int64_t p = first; p < last; p++) {
    const int64_t c = begins(p, outputs), width = begins(p + 1, outputs) - c;
    const int64_t used = least(width, outputs - c);
    for (int64_t b = 0; b < blocks; b++) {
      for (int64_t i = 0; i < least(DEPTH, rows - b * DEPTH); i++) {
        const real_t *row = gradient + (b * DEPTH + i) * outputs + c;
        for (int64_t j = 0; j < used; j += LINE) __builtin_prefetch(row + AHEAD * outputs + j);
        for (int64_t j = 0; j < width; j++) panel[i * width + j] = j < used ? row[j] : 0;
      }
      add_rows(width / LANES, s.event, s.at + b * items, inputs, panel, b, s.sum);
    }
    if (!blocks) memset(s.sum, 0, (size_t)(inputs * width) * sizeof *s.sum);
    for (int64_t j = 0; j < used; j += TILE)
      transpose(s.sum + j, inputs, least(TILE, used - j), width, size, out + (c + j) * inputs,
                inputs);
  }
  free(panel);
  return 0;
}

/* The gradient's columns in the panels [first, last). */
int backward(PARAMETERS) {
  const uint8_t *bits = given[0].p;
  const real_t *gradient = given[1].p, size = (real_t)given[2].x;
  const int64_t rows = given[3].n, outputs = given[4].n, inputs = given[5].n;
  real_t *out = given[6].p;
  const int64_t stride = (inputs + 63) / 64 * 8, items = 8 * stride + 1;
  const space_t s =
      space(count(bits, rows * stride), items * blocks_of(rows) + 1, inputs * WIDTH);
  int short_of = lacks(s);
  uint32_t n = 0;
  for (int64_t b = 0; b < blocks_of(rows) && !short_of; b++)
    n = list_inputs(bits + b * DEPTH * stride, least(DEPTH, rows - b * DEPTH), stride, n, s.event,
                    s.at + b * items);
  if (!short_of)
    short_of = add_gradient(first, last, s, gradient, size, rows, outputs, inputs, out);
  leave(s);
  return short_of;
}

int64_t active(const uint8_t *bits, int64_t bytes) { return count(bits, bytes); }
int64_t padded(int64_t columns) { return begins(panel_count(columns), columns); }
int64_t parts(int64_t columns) { return panel_count(columns); }
"""
)
