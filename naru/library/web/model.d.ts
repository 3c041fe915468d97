/** What went wrong. `code`: "input", "run", "memory", "weights", "module", "download",
 * "unsupported", "selftest", "trap", "worker" or "disposed". Where a step of the model failed,
 * `step` and `nodes` name it. */
export declare class NaruError extends Error {
  readonly code: string;
  readonly step?: string;
  readonly nodes?: readonly string[];
}

/** Plain numbers, flat, or nested as the input's sizes are. */
export type Numbers<N> = ReadonlyArray<N | Numbers<N>>;

/** An input: an array, or an array with its sizes. Only sizes that do not follow must be given. */
export type Value<A, N, D> =
  | A
  | Numbers<N>
  | (D extends readonly [] ? N : never)
  | { readonly data: A | ReadonlyArray<N>; readonly dims?: D | readonly number[] };

/** An output: `data` is a view of the model's memory, valid until the next `run`, `input`
 * or `selftest`. */
export interface Tensor<T extends string, A, D> {
  readonly dtype: T;
  readonly dims: D;
  readonly data: A;
  /** A copy as plain numbers. */
  numbers(): number[];
}

/** A file: its address, or what is in it. */
export type Source = string | URL | Response | Blob | ArrayBuffer | ArrayBufferView;

export interface LoadOptions {
  /** At most so many threads; more than one takes shared memory. Default: the cores, 8 at most. */
  threads?: number;
  /** `false`: without relaxed SIMD, also where the engine has it. */
  relaxed?: boolean;
  /** Told of the bytes of the weights as they come. */
  onProgress?: (progress: { loaded: number; total: number }) => void;
  /** `false`: the weights are not kept in the browser's Cache. */
  cache?: boolean;
  /** The weights, where they are not beside this file. */
  weights?: Source;
  /** The WebAssembly module, where it is not beside this file. */
  wasm?: Source | WebAssembly.Module;
  /** Most rounds of a loop whose end the data decide; 0, the default: any. */
  loopLimit?: number;
  /** Ends the loading; `load` then rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** How far an output of the self-test was off, and how far it may be (root mean squares). */
export interface Check {
  readonly output: string;
  readonly error: number;
  readonly limit: number;
}

export interface Model {
  readonly info: typeof info;
  readonly threads: number;
  readonly relaxed: boolean;
  /** Runs the model. Inputs that are left out must have been filled by means of `input`. */
  run(inputs: Inputs): Outputs;
  run(inputs?: Partial<Inputs>): Outputs;
  /** A view of an input's memory, to be filled before a run, and before the next view is asked
   * for: memory that grows moves. `dims`: where sizes are not fixed. */
  input<K extends keyof InputViews>(name: K, dims?: readonly number[]): InputViews[K];
  /** Compares a run with what the reference gave. */
  selftest(golden?: Source): Promise<readonly Check[]>;
  /** Ends its threads and lets go of its memory. */
  dispose(): void;
}

/** A model in a worker of its own. What it takes and gives is copied. */
export interface WorkerModel {
  readonly info: typeof info;
  readonly threads: number;
  readonly relaxed: boolean;
  run(inputs: Inputs): Promise<Outputs>;
  selftest(golden?: Source): Promise<readonly Check[]>;
  dispose(): void;
}

export declare function load(options?: LoadOptions): Promise<Model>;
/** As `load`, but the model runs in a worker, and the page stays responsive. */
export declare function loadInWorker(options?: LoadOptions): Promise<WorkerModel>;
