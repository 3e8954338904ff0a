// A canvas to draw on with mouse, finger, pen or keyboard.

const WIDTH = 36; // about as thick as the strokes in the data set
const STEP = 8;

export class Pad {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.side = canvas.width;
    this.changed = changed;
    // The ink has a canvas of its own, so that light and dark pages give the same pixels.
    this.ink = new OffscreenCanvas(this.side, this.side).getContext("2d", { willReadFrequently: true });
    this.pen = { x: this.side / 2, y: this.side / 2, down: false, byKeyboard: false };
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { this.pen.down = false; });
    }
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.pen.byKeyboard = false; this.#show(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#show());
    this.#show();
  }

  // Ink of each pixel, 0..255.
  pixels() {
    const data = this.ink.getImageData(0, 0, this.side, this.side).data;
    return Uint8Array.from({ length: this.side ** 2 }, (_, at) => data[4 * at + 3]);
  }

  clear() {
    this.ink.clearRect(0, 0, this.side, this.side);
    this.pen.down = false;
    this.#show();
    this.changed();
  }

  // Replaces the drawing by 8 by 8 pixels.
  showPixels(pixels, side) {
    const cell = this.side / side;
    this.ink.clearRect(0, 0, this.side, this.side);
    pixels.forEach((value, at) => {
      this.ink.fillStyle = `rgb(0 0 0 / ${value / 255})`;
      this.ink.fillRect((at % side) * cell, Math.floor(at / side) * cell, cell, cell);
    });
    this.#show();
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.side / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  #start(event) {
    this.canvas.setPointerCapture(event.pointerId);
    Object.assign(this.pen, this.#at(event), { down: true, byKeyboard: false });
    this.#lineTo(this.pen);
  }

  #move(event) {
    if (this.pen.down && !this.pen.byKeyboard) this.#lineTo(this.#at(event));
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === " ") {
      Object.assign(this.pen, { down: !this.pen.down, byKeyboard: true });
      if (this.pen.down) this.#lineTo(this.pen);
    } else if (move) {
      this.pen.byKeyboard = true;
      const [x, y] = ["x", "y"].map((axis, at) =>
        Math.min(this.side, Math.max(0, this.pen[axis] + move[at] * STEP)));
      if (this.pen.down) this.#lineTo({ x, y });
      else Object.assign(this.pen, { x, y });
    } else return;
    event.preventDefault();
    this.#show();
  }

  #lineTo({ x, y }) {
    Object.assign(this.ink, { lineWidth: WIDTH, lineCap: "round", strokeStyle: "#000" });
    this.ink.beginPath();
    this.ink.moveTo(this.pen.x, this.pen.y);
    this.ink.lineTo(x, y);
    this.ink.stroke();
    Object.assign(this.pen, { x, y });
    this.#show();
    this.changed();
  }

  #show() {
    const shown = this.canvas.getContext("2d");
    const color = getComputedStyle(this.canvas);
    shown.globalCompositeOperation = "source-over";
    shown.clearRect(0, 0, this.side, this.side);
    shown.drawImage(this.ink.canvas, 0, 0);
    shown.globalCompositeOperation = "source-in";
    shown.fillStyle = color.getPropertyValue("--stroke");
    shown.fillRect(0, 0, this.side, this.side);
    if (!this.pen.byKeyboard) return;
    shown.globalCompositeOperation = "source-over";
    shown.strokeStyle = color.getPropertyValue("--accent");
    shown.lineWidth = this.pen.down ? 4 : 2;
    shown.beginPath();
    shown.arc(this.pen.x, this.pen.y, WIDTH / 2, 0, 2 * Math.PI);
    shown.stroke();
  }
}
