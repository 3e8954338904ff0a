// A compressed sentence encoder in ONNX Runtime's Java API.
//
//     python examples/loaders/minilm.py build/minilm
//     java -cp onnxruntime.jar examples/loaders/Session.java build/minilm
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtSession;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;

public class Session {
    static final String[] MODELS = {
        "float/onnx/model.onnx", "int8/onnx/model_quantized.onnx", "small/onnx/model_q4.onnx"};
    static final long[][] IDS = {{101, 1996, 4937, 25126, 2006, 1996, 4010, 4412, 1012, 102}};

    public static void main(String[] arguments) throws Exception {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        float[] exact = null;
        for (String name : MODELS) {
            Path file = Path.of(arguments[0], name);
            long start = System.nanoTime();
            try (OrtSession session = environment.createSession(file.toString())) {
                double load = (System.nanoTime() - start) / 1e9;
                float[] vector = encode(environment, session);
                start = System.nanoTime();
                encode(environment, session);
                double run = (System.nanoTime() - start) / 1e9;
                exact = exact == null ? vector : exact;
                System.out.printf(Locale.ROOT, "{\"kind\": \"%s\", \"bytes\": %d, \"cosine\": %.6f, \"load\": %.4f, \"run\": %.4f}%n",
                    name.split("/")[0], Files.size(file), cosine(exact, vector), load, run);
            }
        }
    }

    static float[] encode(OrtEnvironment environment, OrtSession session) throws Exception {
        long[][] ones = {new long[IDS[0].length]};
        Arrays.fill(ones[0], 1);
        try (OnnxTensor ids = OnnxTensor.createTensor(environment, IDS);
                OnnxTensor mask = OnnxTensor.createTensor(environment, ones);
                OnnxTensor types = OnnxTensor.createTensor(environment, new long[1][IDS[0].length]);
                OrtSession.Result result = session.run(
                    Map.of("input_ids", ids, "attention_mask", mask, "token_type_ids", types))) {
            float[] sum = new float[384];
            for (float[] state : ((float[][][]) result.get(0).getValue())[0])
                for (int at = 0; at < sum.length; at++) sum[at] += state[at];
            return sum;
        }
    }

    static double cosine(float[] left, float[] right) {
        double product = 0, first = 0, second = 0;
        for (int at = 0; at < left.length; at++) {
            product += left[at] * right[at]; first += left[at] * left[at]; second += right[at] * right[at];
        }
        return product / Math.sqrt(first * second);
    }
}
