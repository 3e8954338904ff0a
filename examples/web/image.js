// Converts a drawing to the input of the digits model: 8 by 8 pixels, then 64 by 64.

export const SIDE = 8;
const INPUT = 64;
const BITS = 32;
const WIDEST = 23; // greatest width of a digit in the data set, in bits

// Reduces a drawing (ink 0..255, side by side pixels) to 8 by 8 pixels, like the data set: the digit
// fills the height of a square of 32 by 32 bits, and each pixel counts the bits of a 4 by 4 block.
export function reduced(ink, side) {
  const box = bounds(ink, side);
  const pixels = new Uint8ClampedArray(SIDE * SIDE);
  if (!box) return pixels;
  const stepDown = (box.bottom - box.top) / BITS;
  const stepAcross = Math.max((box.right - box.left) / WIDEST, stepDown);
  const middle = (box.left + box.right) / 2;
  const counts = new Uint8Array(pixels.length);
  for (let y = 0; y < BITS; y++) {
    for (let x = 0; x < BITS; x++) {
      const column = Math.floor(middle + (x + 0.5 - BITS / 2) * stepAcross);
      const row = Math.floor(box.top + (y + 0.5) * stepDown);
      if (column < 0 || column >= side) continue;
      if (ink[row * side + column] > 127) counts[(y >> 2) * SIDE + (x >> 2)]++;
    }
  }
  return pixels.map((_, at) => Math.floor((counts[at] * 255) / 16));
}

function bounds(ink, side) {
  let left = side, top = side, right = -1, bottom = -1;
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] <= 127) continue;
    const x = at % side, y = Math.floor(at / side);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return right < 0 ? null : { left, top, right: right + 1, bottom: bottom + 1 };
}

// Pixels 0..255 [8 × 8] -> the model's input, float32 [3 × 64 × 64] in [-1, 1].
export function modelInput(pixels) {
  const wide = stretched(pixels, SIDE, SIDE, 1, SIDE);
  const square = stretched(wide, INPUT, SIDE, INPUT, 1);
  const input = new Float32Array(3 * INPUT * INPUT);
  for (let at = 0; at < square.length; at++) {
    const value = Math.fround(Math.fround(square[at] / 255) - 0.5) / 0.5;
    for (let channel = 0; channel < 3; channel++) input[channel * square.length + at] = value;
  }
  return input;
}

// Bilinear interpolation along one axis to 64, rounded to whole values, as in Pillow.
function stretched(values, lines, length, stride, lineStride) {
  const result = new Uint8ClampedArray(lines * INPUT);
  const across = stride === 1;
  for (let line = 0; line < lines; line++) {
    for (let to = 0; to < INPUT; to++) {
      const from = ((to + 0.5) * length) / INPUT - 0.5;
      const low = Math.max(0, Math.floor(from));
      const high = Math.min(length - 1, Math.floor(from) + 1);
      const share = Math.min(1, Math.max(0, from - Math.floor(from)));
      const mixed = values[line * lineStride + low * stride] * (1 - share)
        + values[line * lineStride + high * stride] * share;
      result[across ? line * INPUT + to : to * INPUT + line] = Math.floor(mixed + 0.5);
    }
  }
  return result;
}
